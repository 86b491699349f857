// Command sarama produces and reads with the sarama client, or is a member of a group.
//
//	sarama VERSION produce BOOTSTRAP TOPIC NAME   records of every codec to the codec's partition; prints "CODEC FIRST LAST" offsets
//	sarama VERSION digest BOOTSTRAP TOPIC         reads everything; prints "PARTITION COUNT FIRST NEXT SHA256" lines
//	sarama VERSION quotas BOOTSTRAP USER          sets, shows and removes a quota
//	sarama VERSION member BOOTSTRAP GROUP TOPIC NAME ASSIGNOR SESSION_MS   is a member of a group
//
// VERSION is the Kafka version whose requests sarama shall use, or "max". The records to produce are described in
// otherclients_test.go, the digest in digest_test.go.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/IBM/sarama"
)

// The index is the partition.
var codecs = []sarama.CompressionCodec{
	sarama.CompressionNone, sarama.CompressionGZIP, sarama.CompressionSnappy, sarama.CompressionLZ4, sarama.CompressionZSTD,
}

const (
	records  = 40
	patience = time.Minute
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 5 {
		log.Fatal("usage: sarama VERSION produce|digest|quotas|member BOOTSTRAP ...")
	}
	version := sarama.MaxVersion
	if os.Args[1] != "max" {
		v, err := sarama.ParseKafkaVersion(os.Args[1])
		if err != nil {
			log.Fatal(err)
		}
		version = v
	}
	var err error
	switch command := os.Args[2]; {
	case command == "produce" && len(os.Args) == 6:
		err = produce(version, os.Args[3], os.Args[4], os.Args[5])
	case command == "member" && len(os.Args) == 9:
		a := os.Args[3:]
		err = runMember(version, a[0], a[1], a[2], a[3], a[4], a[5])
	case command == "quotas":
		err = quotas(version, os.Args[3], os.Args[4])
	case command == "digest":
		err = digest(version, os.Args[3], os.Args[4])
	default:
		err = errors.New("unknown command " + command)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func produce(version sarama.KafkaVersion, bootstrap, topic, name string) error {
	for partition, codec := range codecs {
		c := sarama.NewConfig()
		c.Version = version
		c.Producer.RequiredAcks = sarama.WaitForAll
		c.Producer.Idempotent = true
		c.Net.MaxOpenRequests = 1
		c.Producer.Compression = codec
		c.Producer.Return.Successes = true
		c.Producer.Partitioner = sarama.NewManualPartitioner
		p, err := sarama.NewSyncProducer([]string{bootstrap}, c)
		if err != nil {
			return fmt.Errorf("%s: %w", codec, err)
		}
		var batch []*sarama.ProducerMessage
		for i := range records {
			m := &sarama.ProducerMessage{Topic: topic, Partition: int32(partition), Headers: []sarama.RecordHeader{
				{Key: []byte("client"), Value: []byte(name)}, {Key: []byte("i"), Value: []byte(strconv.Itoa(i))}, {Key: []byte("empty"), Value: []byte{}},
			}}
			if i != 1 {
				m.Key = sarama.StringEncoder(fmt.Sprintf("%s/%s/%d", name, codec, i))
			}
			switch i {
			case 0:
			case 2:
				m.Value = sarama.ByteEncoder{}
			default:
				m.Value = sarama.ByteEncoder(bytes.Repeat(fmt.Appendf(nil, "%s writes %s record %d. ", name, codec, i), i))
			}
			batch = append(batch, m)
		}
		if err := p.SendMessages(batch); err != nil {
			return fmt.Errorf("%s: %w", codec, err)
		}
		if err := p.Close(); err != nil {
			return err
		}
		fmt.Println(codec, batch[0].Offset, batch[records-1].Offset)
	}
	return nil
}

func digest(version sarama.KafkaVersion, bootstrap, topic string) error {
	c := sarama.NewConfig()
	c.Version = version
	client, err := sarama.NewClient([]string{bootstrap}, c)
	if err != nil {
		return err
	}
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		return err
	}
	partitions, err := client.Partitions(topic)
	if err != nil {
		return err
	}
	slices.Sort(partitions)
	for _, p := range partitions {
		end, err := client.GetOffset(topic, p, sarama.OffsetNewest)
		if err != nil {
			return err
		}
		if err := digestPartition(consumer, topic, p, end); err != nil {
			return fmt.Errorf("partition %d: %w", p, err)
		}
	}
	if err := consumer.Close(); err != nil {
		return err
	}
	return client.Close()
}

func digestPartition(consumer sarama.Consumer, topic string, p int32, end int64) error {
	reader, err := consumer.ConsumePartition(topic, p, sarama.OffsetOldest)
	if err != nil {
		return err
	}
	sha := sha256.New()
	var count, next int64
	first := int64(-1)
	for next < end {
		select {
		case m := <-reader.Messages():
			b := binary.BigEndian.AppendUint64(nil, uint64(m.Offset))
			b = binary.BigEndian.AppendUint64(b, uint64(m.Timestamp.UnixMilli()))
			b = appendFramed(b, m.Key)
			b = appendFramed(b, m.Value)
			b = binary.BigEndian.AppendUint32(b, uint32(len(m.Headers)))
			for _, h := range m.Headers {
				b = appendFramed(b, h.Key)
				b = appendFramed(b, h.Value)
			}
			sha.Write(b)
			if first < 0 {
				first = m.Offset
			}
			next = m.Offset + 1
			count++
		case err := <-reader.Errors():
			return err
		case <-time.After(patience):
			return fmt.Errorf("stopped at %d of %d", next, end)
		}
	}
	fmt.Printf("%d %d %d %d %x\n", p, count, max(first, 0), next, sha.Sum(nil))
	return reader.Close()
}

func appendFramed(dst, b []byte) []byte {
	if b == nil {
		return binary.BigEndian.AppendUint32(dst, 0xffffffff)
	}
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(b))), b...)
}
