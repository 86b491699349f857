// One member of a group with kafkajs. What a member is told and what it reports is described in members_test.go.
//
//   node member.js BOOTSTRAP GROUP TOPIC NAME ASSIGNOR SESSION_MS
//
// kafkajs has no callbacks for a rebalance, only instrumentation events: REBALANCING, before it joins again and after which it works
// on nothing, and GROUP_JOIN with the new assignment. Its partitions are revoked at the first and assigned at the second.
'use strict'
const readline = require('readline')
const { Kafka, PartitionAssigners, logLevel } = require('kafkajs')

function say(event, rest = {}) {
  const t = Math.round((performance.timeOrigin + performance.now()) * 1000)
  process.stdout.write(JSON.stringify({ t, event, ...rest }) + '\n')
}

async function main(bootstrap, groupId, topic, name, assignor, sessionMs) {
  const assigner = { roundrobin: PartitionAssigners.roundRobin }[assignor]
  const consumer = new Kafka({ brokers: [bootstrap], clientId: name, logLevel: logLevel.NOTHING }).consumer({
    groupId, sessionTimeout: Number(sessionMs), heartbeatInterval: 300, maxWaitTimeInMs: 100, partitionAssigners: [assigner],
  })
  let owned = []
  const next = new Map() // what to commit, by partition owned
  const gone = () => {
    say('revoked', { partitions: owned })
    owned = []
    next.clear()
  }
  consumer.on(consumer.events.REBALANCING, gone)
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    owned = (payload.memberAssignment[topic] || []).slice().sort((a, b) => a - b)
    say('assigned', { partitions: owned })
  })
  consumer.on(consumer.events.CRASH, ({ payload }) => say('error', { error: 'crash: ' + payload.error.name }))

  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ partition, message }) => {
      say('read', { partition, offset: Number(message.offset) })
      next.set(partition, Number(message.offset) + 1)
    },
  })

  const commit = async () => {
    const offsets = Object.fromEntries(next)
    try {
      await consumer.commitOffsets([...next].map(([partition, offset]) => ({ topic, partition, offset: String(offset) })))
      say('committed', { offsets })
    } catch (e) {
      say('error', { error: 'commit: ' + e.name })
    }
  }
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [command, ...args] = line.split(' ')
    const partition = Number(args[0])
    if (command === 'leave') break
    if (command === 'commit' && args[0] === 'async') commit()
    else if (command === 'commit') await commit()
    else if (command === 'seek') consumer.seek({ topic, partition, offset: args[1] })
    else if (command === 'pause') consumer.pause([{ topic, partitions: [partition] }])
    else if (command === 'resume') consumer.resume([{ topic, partitions: [partition] }])
    say('done', { command })
  }
  await consumer.disconnect()
  gone()
  say('left')
  process.exit(0)
}

main(...process.argv.slice(2)).catch(e => {
  console.error(e)
  process.exit(1)
})
