// A counter: the smallest service with durable state.
//
//   relay run counter.rl
//   relay call counter add by:=5

import { service, invalid } from "relay";

export default service("counter", {
    description: "Counts, and forgets nothing.",
    public: true,

    state: { count: 0 },

    methods: {
        add(ctx, { by = 1 } = {}) {
            if (!Number.isInteger(by)) throw invalid("by must be a whole number", { by });
            ctx.state.count += by;
            return { count: ctx.state.count };
        },

        get(ctx) {
            return { count: ctx.state.count };
        },

        reset(ctx) {
            const before = ctx.state.count;
            ctx.state.count = 0;
            return { before };
        },
    },
});
