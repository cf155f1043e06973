// A pipeline over services on other nodes: fetch, summarise, store. Steps that may be repeated
// carry an idempotency key, so a run that broke off goes on without doing anything twice.
//
//   relay run pipeline.rl
//   relay call pipeline run document=42

import { service, invalid } from "relay";

const STEPS = {
    fetch: "documents@archive.home",
    summarise: "summariser",
    store: "documents@archive.home",
};

// A node that is away or busy comes back: such calls are tried again, others are not.
const PASSING = [-32002, -32003, -32005];

const step = async (ctx, to, method, args, key) => {
    for (let attempt = 1; ; attempt++) {
        try {
            return await ctx.call(to, method, args, { timeout: "10s", idempotency_key: key });
        } catch (error) {
            if (!PASSING.includes(error.code) || attempt === 3) throw error;
            ctx.log.warn(`${to}.${method}: ${error.message}; attempt ${attempt}`);
        }
    }
};

export default service("pipeline", {
    public: true,
    state: { done: {} },

    methods: {
        async run(ctx, { document } = {}) {
            if (typeof document !== "string") throw invalid("document must be a text");
            const known = ctx.state.done[document];
            if (known !== undefined) return known;

            const { text } = await step(ctx, STEPS.fetch, "get", { id: document }, `fetch-${document}`);
            const parts = text.split(/\n{2,}/);
            const summaries = await Promise.all(parts.map((part, index) =>
                step(ctx, STEPS.summarise, "summarise", { text: part }, `sum-${document}-${index}`)));
            const summary = summaries.map((each) => each.summary).join(" ");
            await step(ctx, STEPS.store, "put", { id: `${document}/summary`, text: summary }, `store-${document}`);

            const result = { document, parts: parts.length, summary, finished_ms: ctx.now() };
            ctx.state.done[document] = result;
            return result;
        },

        list(ctx) {
            return Object.keys(ctx.state.done);
        },
    },
});
