// A bot on events: answers notes that begin with "!", and reminds people when they ask it to.
//
//   relay run chatbot.rl
//   relay event publish --kind 1 --content '!remind 10m drink water'

import { service } from "relay";

const HELP = "I know: !ping, !count, !remind <time> <text>";

const answer = (ctx, event, content) => ctx.publish({
    kind: 1,
    content,
    tags: [["e", event.id], ["p", event.author]],
});

export default service("chatbot", {
    state: { answered: 0, reminders: 0 },

    on: {
        // The cursor is kept with the state: after a restart the bot goes on where it was.
        commands: {
            filter: { kinds: [1] },
            async handle(ctx, event) {
                if (!event.content.startsWith("!")) return;
                const [command, ...rest] = event.content.slice(1).split(/\s+/);
                ctx.state.answered += 1;
                switch (command) {
                    case "ping":
                        return void await answer(ctx, event, "pong");
                    case "count":
                        return void await answer(ctx, event, `${ctx.state.answered} commands so far`);
                    case "remind": {
                        const [after, ...text] = rest;
                        if (!/^\d+[smhd]$/.test(after ?? "")) return void await answer(ctx, event, HELP);
                        const name = `remind:${++ctx.state.reminders}`;
                        ctx.timers.set(name, { after }, { id: event.id, author: event.author, text: text.join(" ") });
                        return void await answer(ctx, event, `in ${after}`);
                    }
                    default:
                        await answer(ctx, event, HELP);
                }
            },
        },
    },

    timers: {
        async remind(ctx, { id, author, text }) {
            await answer(ctx, { id, author }, `reminder: ${text}`);
        },
    },

    methods: {
        stats(ctx) {
            return ctx.state;
        },
    },
});
