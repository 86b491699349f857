// Connects with kafkajs as the lines of its input say, and prints one line for each: the case, and ok or the name of the error.
//
// A line has tabs between case, bootstrap server, security.protocol, sasl.mechanism, user, password or token, and file of the CA;
// what is not needed is a dash. NODE_PATH names the directory that holds kafkajs.
'use strict'
const fs = require('fs')
const { Kafka, logLevel } = require('kafkajs')

async function connect([server, protocol, mechanism, user, secret, ca]) {
  const config = { brokers: [server], logLevel: logLevel.NOTHING, retry: { retries: 0 }, connectionTimeout: 10000 }
  if (protocol.endsWith('SSL')) config.ssl = { ca: [fs.readFileSync(ca)] }
  if (protocol.startsWith('SASL')) {
    config.sasl = mechanism === 'OAUTHBEARER'
      ? { mechanism: 'oauthbearer', oauthBearerProvider: async () => ({ value: secret }) }
      : { mechanism: mechanism.toLowerCase(), username: user, password: secret }
  }
  const admin = new Kafka(config).admin()
  try {
    await admin.connect()
    await admin.describeCluster()
    return 'ok'
  } catch (e) {
    return e.name
  } finally {
    await admin.disconnect()
  }
}

async function main() {
  for (const line of fs.readFileSync(0, 'utf8').split('\n').filter(Boolean)) {
    const [name, ...rest] = line.split('\t')
    console.log(`${name}\t${await connect(rest)}`)
  }
}

main().catch(e => { console.error(e); process.exit(1) })
