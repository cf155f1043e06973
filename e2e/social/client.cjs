// The canonical client of Polycentric against a relay: what its apps do, with what they must see.
// usage: node client.cjs SERVER [SECOND_SERVER]; the client library is found through NODE_PATH.
'use strict';

const assert = require('node:assert/strict');
const Core = require('@polycentric/polycentric-core');
const { APIMethods, Models, ProcessHandle, Protocol, Queries, Ranges, Synchronization, Util } = Core;
const Long = require('long');

const server = process.argv[2];
const failures = [];

async function step(name, run) {
  try {
    await run();
    console.log(`ok ${name}`);
  } catch (error) {
    failures.push(name);
    console.log(`FAILED ${name}: ${error && error.stack}`);
  }
}

/** Waits until `ask` gives something that `holds`; the client has no push. */
async function until(what, ask, holds) {
  const end = Date.now() + 20_000;
  for (;;) {
    const value = await ask();
    if (holds(value)) return value;
    assert.ok(Date.now() < end, `waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const encoder = new TextEncoder();

async function person(name) {
  const handle = await ProcessHandle.createTestProcessHandle();
  handle.addAddressHint(handle.system(), server);
  await handle.addServer(server);
  await handle.setUsername(name);
  await ProcessHandle.fullSync(handle);
  return handle;
}

/** What a stranger reads of a feed: only through the network, checked as the client checks it. */
async function feed(system, contentType, limit, after) {
  const page = await APIMethods.getQueryIndex(server, system, contentType, after, Long.fromNumber(limit, true));
  return page.events.map((signed) => Models.Event.fromBuffer(Models.SignedEvent.fromProto(signed).event));
}

const textOf = (event) => Protocol.Post.decode(event.content).content;
const ofPointer = (pointer) => Models.pointerToReference(pointer);
const LIKE = Models.Opinion.OpinionLike;
const DISLIKE = Models.Opinion.OpinionDislike;
const NEUTRAL = Models.Opinion.OpinionNeutral;

async function opinions(reference, extra) {
  const count = (value) => ({ value, fromType: Models.ContentType.ContentTypeOpinion });
  const answer = await APIMethods.getQueryReferences(
    server,
    reference,
    undefined,
    undefined,
    [count(LIKE), count(DISLIKE)],
    [{ fromType: Models.ContentType.ContentTypePost }],
    extra,
  );
  return answer.counts.map(Number);
}

async function main() {
  const alice = await person('alice');
  const bob = await person('bob');
  let post;
  let reply;

  await step('posts and feeds', async () => {
    post = await alice.post('hello from alice');
    for (let n = 0; n < 12; n += 1) await alice.post(`post ${n}`);
    await ProcessHandle.fullSync(alice);
    const first = await feed(alice.system(), Models.ContentType.ContentTypePost, 10);
    assert.equal(first.length, 10);
    assert.equal(textOf(first[0]), 'post 11');
    const last = first[first.length - 1];
    const rest = await feed(alice.system(), Models.ContentType.ContentTypePost, 10, last.unixMilliseconds);
    const all = [...first, ...rest].map(textOf);
    assert.equal(new Set(all).size, 13, all.join());
    assert.equal(all[12], 'hello from alice');
  });

  await step('the profile of a stranger is loaded and checked by the query engine', async () => {
    const reader = await person('reader');
    reader.addAddressHint(alice.system(), server);
    const observable = Queries.QueryCRDT.queryCRDTObservable(
      reader.queryManager.queryCRDT,
      alice.system(),
      Models.ContentType.ContentTypeUsername,
    );
    const name = await new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error('no username came')), 20_000);
      observable.subscribe((state) => {
        if (state.value !== undefined) {
          clearTimeout(timer);
          resolve(Util.decodeText(state.value));
        }
      });
    });
    assert.equal(name, 'alice');
    const cells = new Map();
    await new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`only ${cells.size} posts came`)), 20_000);
      const query = reader.queryManager.queryIndex.query(
        alice.system(),
        Models.ContentType.ContentTypePost,
        (patch) => {
          for (const cell of patch.add) cells.set(cell.key, cell);
          if (cells.size >= 13) {
            clearTimeout(timer);
            resolve();
          }
        },
      );
      query.advance(20);
    });
  });

  await step('replies', async () => {
    reply = await bob.post('a reply', undefined, ofPointer(post));
    await ProcessHandle.fullSync(bob);
    const answer = await APIMethods.getQueryReferences(server, ofPointer(post), undefined, {
      fromType: Models.ContentType.ContentTypePost,
      countLwwElementReferences: [{ value: LIKE, fromType: Models.ContentType.ContentTypeOpinion }],
      countReferences: [{ fromType: Models.ContentType.ContentTypePost }],
    });
    assert.equal(answer.items.length, 1);
    const event = Models.Event.fromBuffer(Models.SignedEvent.fromProto(answer.items[0].event).event);
    assert.equal(textOf(event), 'a reply');
    assert.deepEqual(answer.items[0].counts.map(Number), [0, 0]);
  });

  await step('opinions: 0/0, 1/0, 2/0, 1/1, 0/0', async () => {
    const subject = Models.bufferToReference(encoder.encode('https://example.test/video'));
    assert.deepEqual(await opinions(subject), [0, 0, 0]);
    await alice.opinion(subject, LIKE);
    await ProcessHandle.fullSync(alice);
    assert.deepEqual(await opinions(subject), [1, 0, 0]);
    await bob.opinion(subject, LIKE);
    await ProcessHandle.fullSync(bob);
    assert.deepEqual(await opinions(subject), [2, 0, 0]);
    await bob.opinion(subject, DISLIKE);
    await ProcessHandle.fullSync(bob);
    assert.deepEqual(await opinions(subject), [1, 1, 0]);
    await alice.opinion(subject, NEUTRAL);
    await bob.opinion(subject, NEUTRAL);
    await ProcessHandle.fullSync(alice);
    await ProcessHandle.fullSync(bob);
    assert.deepEqual(await opinions(subject), [0, 0, 0]);
  });

  await step('several opinions in one upload: the last one counts', async () => {
    for (const value of [LIKE, DISLIKE, LIKE, NEUTRAL, DISLIKE]) {
      await bob.opinion(ofPointer(post), value);
      // The client stamps milliseconds; five in one would be a tie.
      await new Promise((resolve) => setTimeout(resolve, 3));
    }
    await ProcessHandle.fullSync(bob);
    assert.deepEqual((await opinions(ofPointer(post))).slice(0, 2), [0, 1]);
  });

  await step('two references at once', async () => {
    const first = Models.bufferToReference(encoder.encode('https://example.test/one'));
    const second = encoder.encode('https://example.test/two');
    await alice.opinion(first, LIKE);
    await bob.opinion(Models.bufferToReference(second), DISLIKE);
    await alice.post('about one', undefined, first);
    await ProcessHandle.fullSync(alice);
    await bob.post('about two', undefined, Models.bufferToReference(second));
    await ProcessHandle.fullSync(bob);
    assert.deepEqual(await opinions(first, [second]), [1, 1, 2]);
    const answer = await APIMethods.getQueryReferences(
      server,
      first,
      undefined,
      { fromType: Models.ContentType.ContentTypePost, countLwwElementReferences: [], countReferences: [] },
      undefined,
      undefined,
      [second],
    );
    const texts = answer.items.map((item) => textOf(Models.Event.fromBuffer(Models.SignedEvent.fromProto(item.event).event)));
    assert.deepEqual(texts, ['about two', 'about one']);
  });

  await step('follow, unfollow, block', async () => {
    await bob.follow(alice.system());
    await ProcessHandle.fullSync(bob);
    const [follow] = await feed(bob.system(), Models.ContentType.ContentTypeFollow, 10);
    assert.deepEqual(
      Buffer.from(follow.lwwElementSet.value),
      Buffer.from(Protocol.PublicKey.encode(alice.system()).finish()),
    );
    await bob.unfollow(alice.system());
    await bob.block(alice.system());
    await bob.unblock(alice.system());
    await ProcessHandle.fullSync(bob);
    assert.equal((await feed(bob.system(), Models.ContentType.ContentTypeFollow, 10)).length, 2);
  });

  await step('a delete is seen in the place of the post', async () => {
    await bob.delete(reply.process, reply.logicalClock);
    await ProcessHandle.fullSync(bob);
    const answer = await APIMethods.getQueryReferences(server, ofPointer(post), undefined, {
      fromType: Models.ContentType.ContentTypePost,
      countLwwElementReferences: [],
      countReferences: [],
    });
    assert.equal(answer.items.length, 0);
    const posts = await feed(bob.system(), Models.ContentType.ContentTypePost, 10);
    assert.ok(posts.some((event) => event.contentType.equals(Models.ContentType.ContentTypeDelete)));
  });

  await step('claims and vouches', async () => {
    const claim = await bob.claim(Models.claimGeneric('lifts boxes'));
    await ProcessHandle.fullSync(bob);
    await alice.vouch(claim);
    await ProcessHandle.fullSync(alice);
    const found = await APIMethods.getResolveClaim(
      server,
      alice.system(),
      Models.ClaimType.ClaimTypeGeneric,
      'lifts boxes',
    );
    assert.equal(found.matches.length, 1);
    const pair = await APIMethods.getFindClaimAndVouch(
      server,
      alice.system(),
      bob.system(),
      [{ key: Long.UZERO, value: 'lifts boxes' }],
      Models.ClaimType.ClaimTypeGeneric,
    );
    assert.ok(pair && pair.vouch && pair.claim);
    const none = await APIMethods.getFindClaimAndVouch(
      server,
      bob.system(),
      alice.system(),
      [{ key: Long.UZERO, value: 'lifts boxes' }],
      Models.ClaimType.ClaimTypeGeneric,
    );
    assert.equal(none, undefined);
  });

  await step('a picture in blob sections', async () => {
    const picture = new Uint8Array(1_200_000).map((_, n) => n % 251);
    const ranges = await alice.publishBlob(picture);
    const manifest = {
      mime: 'image/jpeg',
      width: Long.fromNumber(256, true),
      height: Long.fromNumber(256, true),
      byteCount: Long.fromNumber(picture.length, true),
      process: alice.process(),
      sections: ranges,
    };
    await alice.setAvatar({ imageManifests: [manifest] });
    await ProcessHandle.fullSync(alice);
    const events = await APIMethods.getEvents(server, alice.system(), {
      rangesForProcesses: [{ process: alice.process(), ranges }],
    });
    const parts = events.events.map((signed) => Models.Event.fromBuffer(Models.SignedEvent.fromProto(signed).event).content);
    assert.deepEqual(Buffer.concat(parts), Buffer.from(picture));
  });

  await step('search, explore, topics', async () => {
    for (let n = 0; n < 11; n += 1) await alice.post(`searchable heron ${n}`);
    await alice.setDescription('a keeper of kestrels');
    await alice.post('on a topic', undefined, Models.bufferToReference(encoder.encode('/birds')));
    await ProcessHandle.fullSync(alice);
    const first = await APIMethods.getSearch(server, 'heron');
    assert.equal(first.resultEvents.events.length, 10);
    const second = await APIMethods.getSearch(server, 'heron', undefined, first.cursor);
    assert.equal(second.resultEvents.events.length, 1);
    const people = await APIMethods.getSearch(server, 'kestrels', undefined, undefined, APIMethods.SearchType.Profiles);
    assert.equal(people.resultEvents.events.length, 1);
    const seen = new Set();
    let cursor;
    for (;;) {
      const page = await APIMethods.getExplore(server, 7, cursor, { hate: 0 });
      if (page.resultEvents.events.length === 0) break;
      for (const signed of page.resultEvents.events) seen.add(Buffer.from(signed.signature).toString('hex'));
      cursor = page.cursor;
    }
    assert.ok(seen.size >= 25, String(seen.size));
    const topics = await until(
      'the topic is listed',
      () => APIMethods.getTopStringReferences(server, { query: 'birds', timeRange: '12h' }),
      (answer) => answer.buckets.length > 0,
    );
    assert.equal(Buffer.from(topics.buckets[0].key, 'base64url').toString(), '/birds');
  });

  await step('posts of many bytes a character do not stop the upload', async () => {
    await bob.post('\u00e4'.repeat(10_000));
    const last = await bob.post('after the long one');
    await ProcessHandle.fullSync(bob);
    const posts = await feed(bob.system(), Models.ContentType.ContentTypePost, 1);
    assert.ok(posts[0].logicalClock.equals(last.logicalClock));
  });

  await step('a second device gets what the first wrote, and a fresh client everything', async () => {
    const device = await ProcessHandle.testProcessHandleCreateNewProcess(alice);
    device.addAddressHint(device.system(), server);
    await device.addServer(server);
    await device.synchronizer.debugWaitUntilSynchronizationComplete();
    await until(
      'the backfill',
      async () => (await device.store().indexProcessStates.getProcessState(alice.system(), alice.process())).ranges,
      (ranges) => ranges.length === 1 && ranges[0].high.gte(30),
    );
    await device.post('from the second device');
    await ProcessHandle.fullSync(device);
    const posts = await feed(alice.system(), Models.ContentType.ContentTypePost, 50);
    assert.ok(posts.some((event) => textOf(event) === 'from the second device'));
    const head = await APIMethods.getHead(server, alice.system());
    assert.ok(head.events.length >= 2);
  });

  await step('handles', async () => {
    const handle = `h${Date.now()}`;
    await APIMethods.postClaimHandle(server, { system: alice.system(), handle });
    const found = await APIMethods.getResolveHandle(server, handle);
    assert.ok(Models.PublicKey.equal(found, alice.system()));
    await assert.rejects(APIMethods.postClaimHandle(server, { system: bob.system(), handle }));
    await assert.rejects(APIMethods.postClaimHandle(server, { system: bob.system(), handle: 'a b' }));
    await assert.rejects(APIMethods.postClaimHandle(server, { system: bob.system(), handle: 'x'.repeat(65) }));
  });

  await step('a flood of posts, uploaded whole', async () => {
    const flood = await person('flood');
    for (let n = 0; n < 300; n += 1) await flood.post(String(n));
    await ProcessHandle.fullSync(flood);
    const held = await APIMethods.getRanges(server, flood.system());
    const [only] = held.rangesForProcesses;
    assert.equal(only.ranges.length, 1);
    assert.ok(only.ranges[0].high.gte(302));
  });

  await step('purge by challenge, then upload again', async () => {
    const challenge = await APIMethods.getChallenge(server);
    const solved = await ProcessHandle.solveChallenge(bob, challenge);
    await APIMethods.postPurge(server, solved);
    const held = await APIMethods.getRanges(server, bob.system());
    assert.equal(held.rangesForProcesses.length, 0);
    await assert.rejects(APIMethods.postPurge(server, solved), 'a challenge is good once');
    await ProcessHandle.fullSync(bob);
    const again = await APIMethods.getRanges(server, bob.system());
    assert.equal(again.rangesForProcesses.length, 1);
    const posts = await feed(bob.system(), Models.ContentType.ContentTypePost, 1);
    assert.equal(textOf(posts[0]), 'after the long one');
  });
}

main()
  .catch((error) => failures.push(`main: ${error && error.stack}`))
  .finally(() => {
    if (failures.length > 0) console.log(`FAILED in all: ${failures.join(', ')}`);
    process.exit(failures.length === 0 ? 0 : 1);
  });
