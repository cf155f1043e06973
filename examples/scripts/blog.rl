// A blog: anyone may read; who wrote a post may change it.
//
//   relay run blog.rl --watch
//   relay call blog create_post title=Hello body="First post"
//   relay call blog@alice.home list_posts          (from any node of the federation)

import { service, invalid, RpcError } from "relay";

const MAX_BODY = 20_000;

// A caller is known by its key, else by the node and service it proved to be.
const nameOf = ({ key, node, service: name }) => key ?? [name, node ?? "here"].filter(Boolean).join("@");

const text = (value, name, most) => {
    if (typeof value !== "string" || value.trim() === "" || value.length > most) {
        throw invalid(`${name} must be a text of 1 to ${most} characters`);
    }
    return value.trim();
};

const find = (ctx, id) => {
    const post = ctx.state.posts[id];
    if (post === undefined) throw new RpcError(404, `there is no post ${id}`);
    return post;
};

const findOwn = (ctx, id) => {
    const post = find(ctx, id);
    if (post.author !== nameOf(ctx.caller)) throw new RpcError(403, "only its author may change a post");
    return post;
};

export default service("blog", {
    version: "1.1.0",
    description: "Posts and comments.",
    public: true,

    state_version: 2,
    state: { next: 1, posts: {} },

    // Version 1 kept posts in a list.
    migrate(state, from) {
        if (from !== 1) throw new Error(`state version ${from} is not known`);
        const posts = Object.fromEntries(state.posts.map((post, index) => [index + 1, { ...post, id: index + 1 }]));
        return { next: state.posts.length + 1, posts };
    },

    methods: {
        create_post(ctx, { title, body } = {}) {
            const id = ctx.state.next++;
            ctx.state.posts[id] = {
                id,
                title: text(title, "title", 200),
                body: text(body, "body", MAX_BODY),
                author: nameOf(ctx.caller),
                created_ms: ctx.now(),
                comments: [],
            };
            return { id };
        },

        edit_post(ctx, { id, title, body } = {}) {
            const post = findOwn(ctx, id);
            if (title !== undefined) post.title = text(title, "title", 200);
            if (body !== undefined) post.body = text(body, "body", MAX_BODY);
            post.edited_ms = ctx.now();
            return post;
        },

        delete_post(ctx, { id } = {}) {
            findOwn(ctx, id);
            delete ctx.state.posts[id];
        },

        comment(ctx, { id, body } = {}) {
            const post = find(ctx, id);
            if (post.comments.length >= 500) throw new RpcError(409, "this post has enough comments");
            post.comments.push({ author: nameOf(ctx.caller), body: text(body, "body", 2000), created_ms: ctx.now() });
            return { comments: post.comments.length };
        },

        get_post(ctx, { id } = {}) {
            return find(ctx, id);
        },

        list_posts(ctx, { before = Infinity, limit = 20 } = {}) {
            return Object.values(ctx.state.posts)
                .filter((post) => post.id < before)
                .sort((a, b) => b.id - a.id)
                .slice(0, Math.min(limit, 100))
                .map(({ id, title, author, created_ms, comments }) => ({ id, title, author, created_ms, comments: comments.length }));
        },
    },
});
