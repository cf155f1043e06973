// One member of a group on ts-mls, driven by JSON lines on stdin: an implementation of RFC 9420 that shares no code with ours.
// usage: node member.mjs NODE_MODULES
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'

const load = (file) => import(pathToFileURL(`${process.argv[2]}/ts-mls/dist/src/${file}`))
const mls = await load('index.js')
const { signGroupInfo } = await load('groupInfo.js')
const { makeKeyPackageRef } = await load('keyPackage.js')
const { decryptSenderData } = await load('privateMessage.js')

const cs = await mls.getCiphersuiteImpl(
  mls.getCiphersuiteFromName('MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519'),
)
const b64 = (bytes) => Buffer.from(bytes).toString('base64')
const bytes = (text) => new Uint8Array(Buffer.from(text, 'base64'))
const encode = (message) => b64(mls.encodeMlsMessage({ version: 'mls10', ...message }))
const decode = (text) => mls.decodeMlsMessage(bytes(text), 0)[0]
const config = {
  keyRetentionConfig: { ...mls.defaultKeyRetentionConfig },
  lifetimeConfig: { ...mls.defaultLifetimeConfig, validateLifetimeOnReceive: false },
  keyPackageEqualityConfig: mls.defaultKeyPackageEqualityConfig,
  paddingConfig: { kind: 'padUntilLength', padUntilLength: 256 },
  authService: mls.defaultAuthenticationService,
}

const keys = await cs.signature.keygen()
const packages = new Map()
let credential
let state
let pending

async function keyPackage() {
  const now = BigInt(Math.floor(Date.now() / 1000))
  const capabilities = {
    versions: ['mls10'],
    ciphersuites: ['MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519'],
    extensions: [0x000a, 0xf1a0],
    proposals: [],
    credentials: ['basic'],
  }
  const lifetime = { notBefore: now - 3600n, notAfter: now + 28n * 86400n }
  return mls.generateKeyPackageWithKey(credential, capabilities, lifetime, [], keys, cs)
}

// ts-mls writes external_pub without the length that stands inside it.
async function groupInfo(of) {
  const info = await mls.createGroupInfoWithExternalPubAndRatchetTree(of, [], cs)
  const extensions = info.extensions.map((extension) =>
    extension.extensionType === 'external_pub'
      ? { ...extension, extensionData: Uint8Array.from([0x20, ...extension.extensionData]) }
      : extension,
  )
  const signed = await signGroupInfo({ ...info, extensions }, of.signaturePrivateKey, cs.signature)
  return encode({ wireformat: 'mls_group_info', groupInfo: signed })
}

// And looks it up as if it were so; the signature covers the bytes as they came.
function readable(info) {
  const extensions = [...info.extensions]
  const find = extensions.find.bind(extensions)
  extensions.find = (test) => {
    const found = find(test)
    return found?.extensionType === 'external_pub'
      ? { ...found, extensionData: found.extensionData.slice(1) }
      : found
  }
  return { ...info, extensions }
}

const told = () => ({
  epoch: Number(state.groupContext.epoch),
  check: Buffer.from(state.keySchedule.epochAuthenticator.slice(0, 8)).toString('hex'),
  active: state.groupActiveState.kind === 'active',
})

const verbs = {
  key: async () => ({ key: b64(keys.publicKey) }),
  identity: async ({ identity }) => {
    credential = { credentialType: 'basic', identity: bytes(identity) }
    return {}
  },
  key_package: async () => {
    const made = await keyPackage()
    const reference = b64(await makeKeyPackageRef(made.publicPackage, cs.hash))
    packages.set(reference, made)
    return { package: encode({ wireformat: 'mls_key_package', keyPackage: made.publicPackage }) }
  },
  join: async ({ welcome }) => {
    const message = decode(welcome)
    const wanted = message.welcome.secrets.map((secret) => b64(secret.newMember))
    const made = packages.get(wanted.find((reference) => packages.has(reference)))
    state = await mls.joinGroup(
      message.welcome, made.publicPackage, made.privatePackage, mls.emptyPskIndex, cs, undefined, undefined, config,
    )
    return told()
  },
  process: async ({ env }) => {
    const message = decode(env)
    let from
    if (message.wireformat === 'mls_private_message') {
      const sender = await decryptSenderData(message.privateMessage, state.keySchedule.senderDataSecret, cs)
      from = sender?.leafIndex
    }
    const result = await mls.processMessage(message, state, mls.emptyPskIndex, mls.acceptAll, cs)
    state = result.newState
    pending = undefined
    const content = result.kind === 'applicationMessage' ? Buffer.from(result.message).toString() : undefined
    return { content, from, ...told() }
  },
  send: async ({ content }) => {
    const made = await mls.createApplicationMessage(state, new TextEncoder().encode(content), cs)
    state = made.newState
    return { env: encode({ wireformat: 'mls_private_message', privateMessage: made.privateMessage }) }
  },
  commit: async ({ adds = [], removes = [] }) => {
    const extraProposals = [
      ...adds.map((one) => ({ proposalType: 'add', add: { keyPackage: decode(one).keyPackage } })),
      ...removes.map((removed) => ({ proposalType: 'remove', remove: { removed } })),
    ]
    const made = await mls.createCommit(
      { state, cipherSuite: cs, pskIndex: mls.emptyPskIndex },
      { extraProposals, ratchetTreeExtension: true },
    )
    pending = made.newState
    return {
      env: b64(mls.encodeMlsMessage(made.commit)),
      welcome: made.welcome && encode({ wireformat: 'mls_welcome', welcome: made.welcome }),
      group_info: await groupInfo(made.newState),
      epoch: Number(made.newState.groupContext.epoch),
    }
  },
  merge: async () => {
    state = pending
    pending = undefined
    return told()
  },
  external: async ({ group_info: text }) => {
    const made = await keyPackage()
    const info = readable(decode(text).groupInfo)
    const joined = await mls.joinGroupExternal(
      info, made.publicPackage, made.privatePackage, false, cs, undefined, config,
    )
    pending = joined.newState
    return {
      env: encode({ wireformat: 'mls_public_message', publicMessage: joined.publicMessage }),
      group_info: await groupInfo(joined.newState),
      epoch: Number(joined.newState.groupContext.epoch),
    }
  },
  leaves: async () => ({
    leaves: state.ratchetTree.flatMap((node, at) =>
      node?.nodeType === 'leaf'
        ? [{ index: at / 2, user: Buffer.from(node.leaf.credential.identity.slice(4, 36)).toString('hex') }]
        : [],
    ),
  }),
}

for await (const line of createInterface({ input: process.stdin })) {
  const { verb, ...rest } = JSON.parse(line)
  try {
    console.log(JSON.stringify(await verbs[verb](rest)))
  } catch (error) {
    console.log(JSON.stringify({ error: `${error?.stack ?? error}` }))
  }
}
