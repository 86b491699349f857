// Package wire knows how Kafka's requests and responses lie in bytes, and the protocol's error codes.
// Most messages are franz-go's kmsg types. Two are our own, because they carry records: Produce requests
// are decoded to views of the frame, Fetch responses are encoded around records that stay where they are.
//
// Door: ParseRequestHeader, then ProduceRequest.Decode or Decoder.DecodeRequest; AppendResponse or EncodeFetch.
//
// Invariants:
//  1. Decoding anything returns an error or a request. It does not panic, and it allocates no more than
//     16 bytes for every byte received, plus 64 KiB (Produce: 32 bytes for every byte).
//  2. What EncodeFetch returns is, piece after piece, byte for byte what kmsg would encode.
package wire
