// Package config alone knows Moldau's properties: one table holds each key's name, type, default, allowed values, scope
// and what this broker does with it, and everything else (start, checks, descriptions, help) is derived from that table.
// Names, types, defaults and error texts are those of Apache Kafka 4.3.1; where a default differs on purpose the key says so.
//
// The door is Load, which turns a file, the environment and the command line into an immutable Broker; ValidateTopic and
// Broker.ValidateDynamic, which judge what a client wants to change; and Broker.Topic, Broker.DescribeTopic and
// Broker.DescribeBroker, which resolve values through the layers
//
//	topic > this broker (dynamic) > whole cluster (dynamic) > start configuration > default.
//
// Invariants:
//  1. A value inside a Broker has passed its key's check, so the typed getters cannot fail.
//  2. A key for security, durability or the place of data that is not implemented is an error, never silently ignored.
//  3. Nothing here reads a file, the network or the clock; Load reads only the reader it is given.
//
// All types are immutable after construction and safe for concurrent use.
package config
