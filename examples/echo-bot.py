#!/usr/bin/env python3
"""Accepts every invitation to a chat and answers every message with its own words.

usage: RELAY_CONTEXT=bot examples/echo-bot.py
"""

import json
import subprocess


def main():
    chat = subprocess.Popen(
        ["relay", "chat", "tail", "--json", "--commands"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def do(**command):
        print(json.dumps(command), file=chat.stdin, flush=True)

    for line in chat.stdout:
        event = json.loads(line)
        if event["event"] == "invited":
            do(conv_id=event["conv_id"], accept=True)
        elif event["event"] == "message":
            message = event["message"]
            if message["type"] == "text" and not message["own"]:
                do(conv_id=message["conv_id"], text=message["text"], reply_to=message["seq"], read=message["seq"])


if __name__ == "__main__":
    main()
