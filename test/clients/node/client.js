// Produces and reads with kafkajs.
//
//   node client.js produce BOOTSTRAP TOPIC NAME   records of every codec to the codec's partition; prints "CODEC FIRST LAST" offsets
//   node client.js digest BOOTSTRAP TOPIC         reads everything; prints "PARTITION COUNT FIRST NEXT SHA256" lines
//
// kafkajs brings only gzip with it, so it works on the partitions 0 (none) and 1 (gzip). Its consumer needs a group; the digest
// therefore asks the client's own cluster and broker objects to fetch. The records to produce are described in
// otherclients_test.go, the digest in digest_test.go. NODE_PATH names the directory that holds kafkajs.
'use strict'
const crypto = require('crypto')
const { Kafka, CompressionTypes, logLevel } = require('kafkajs')
const Cluster = require('kafkajs/src/cluster')
const socketFactory = require('kafkajs/src/network/socketFactory')

const codecs = [['none', CompressionTypes.None], ['gzip', CompressionTypes.GZIP]] // the index is the partition
const recordCount = 40
const patienceMs = 60000

function records(name, codec) {
  return Array.from({ length: recordCount }, (_, i) => ({
    key: i === 1 ? null : `${name}/${codec}/${i}`,
    value: i === 0 ? null : i === 2 ? '' : `${name} writes ${codec} record ${i}. `.repeat(i),
    headers: { client: name, i: String(i), empty: '' },
  }))
}

function framed(b) {
  const size = Buffer.alloc(4)
  size.writeInt32BE(b == null ? -1 : b.length)
  return b == null ? size : Buffer.concat([size, b])
}

async function produce(bootstrap, topic, name) {
  const producer = new Kafka({ brokers: [bootstrap], clientId: name, logLevel: logLevel.WARN }).producer()
  await producer.connect()
  for (const [partition, [codec, compression]] of codecs.entries()) {
    const messages = records(name, codec).map(m => ({ ...m, partition }))
    const [ack] = await producer.send({ topic, acks: -1, compression, messages })
    if (ack.errorCode !== 0) throw new Error(`${codec}: error ${ack.errorCode}`)
    const first = Number(ack.baseOffset)
    console.log(codec, first, first + recordCount - 1)
  }
  await producer.disconnect()
}

async function digest(bootstrap, topic) {
  const kafka = new Kafka({ brokers: [bootstrap], logLevel: logLevel.WARN })
  const admin = kafka.admin()
  await admin.connect()
  const ends = await admin.fetchTopicOffsets(topic)
  await admin.disconnect()

  const cluster = new Cluster({
    logger: kafka.logger(), socketFactory: socketFactory(), brokers: [bootstrap], retry: {}, connectionTimeout: 5000,
    metadataMaxAge: 300000, allowAutoTopicCreation: false, maxInFlightRequests: null, isolationLevel: 0,
  })
  await cluster.connect()
  await cluster.addTargetTopic(topic)
  for (const partition of codecs.keys()) {
    const end = Number(ends.find(e => e.partition === partition).offset)
    const { leader } = cluster.findTopicPartitionMetadata(topic).find(p => p.partitionId === partition)
    const broker = await cluster.findBroker({ nodeId: leader })
    const sha = crypto.createHash('sha256')
    let count = 0
    let first = -1
    let next = 0
    const deadline = Date.now() + patienceMs
    while (next < end) {
      if (Date.now() > deadline) throw new Error(`partition ${partition} stopped at ${next} of ${end}`)
      const { responses } = await broker.fetch({
        replicaId: -1, isolationLevel: 0, maxWaitTime: 500,
        topics: [{ topic, partitions: [{ partition, fetchOffset: String(next), maxBytes: 1048576, currentLeaderEpoch: -1 }] }],
      })
      const answer = responses[0].partitions[0]
      if (answer.errorCode !== 0) throw new Error(`partition ${partition}: error ${answer.errorCode}`)
      for (const m of answer.messages) {
        if (Number(m.offset) < next) continue // a batch comes whole, even if the fetch begins inside of it
        const fixed = Buffer.alloc(16)
        fixed.writeBigInt64BE(BigInt(m.offset))
        fixed.writeBigInt64BE(BigInt(m.timestamp), 8)
        const headers = Object.entries(m.headers)
        const n = Buffer.alloc(4)
        n.writeInt32BE(headers.length)
        sha.update(Buffer.concat([fixed, framed(m.key), framed(m.value), n,
          ...headers.flatMap(([k, v]) => [framed(Buffer.from(k)), framed(v)])]))
        if (first < 0) first = Number(m.offset)
        next = Number(m.offset) + 1
        count++
      }
    }
    console.log(partition, count, Math.max(first, 0), next, sha.digest('hex'))
  }
  await cluster.disconnect()
}

const [command, ...args] = process.argv.slice(2)
const commands = { produce, digest }
commands[command](...args).catch(e => {
  console.error(e)
  process.exit(1)
})
