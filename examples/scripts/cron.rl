// A cron job that runs once in the whole federation, however many nodes run this script: who gets
// the lock works, the others skip their turn. The fencing token goes along with what is written,
// so that a node that was asleep cannot write late.
//
//   relay run cron.rl            (on as many nodes as you like)

import { service } from "relay";

export default service("cron", {
    state: { runs: 0, skipped: 0, last: null },

    timers: {
        report: {
            every: "1h",
            async handle(ctx) {
                try {
                    await ctx.lock("cron/report", { lease: "2m" }, async ({ token }) => {
                        const at = ctx.now();
                        await ctx.publish({
                            kind: 30001,
                            content: JSON.stringify({ at, run: ctx.state.runs + 1 }),
                            tags: [["d", "cron/report"], ["fence", "cron/report", String(token)]],
                        });
                        ctx.state.runs += 1;
                        ctx.state.last = { at, token };
                    });
                } catch (error) {
                    // Another node is at it; everything else is a failure and tried again.
                    if (error.data?.code !== "lock_held") throw error;
                    ctx.state.skipped += 1;
                }
            },
        },
    },

    methods: {
        status(ctx) {
            return ctx.state;
        },
    },
});
