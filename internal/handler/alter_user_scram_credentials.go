package handler

// AlterUserScramCredentials, key 51, version 0 (KIP-554).
//
// The client sends a salted password; the broker keeps what SCRAM needs of it and not that, so that what is in the metadata lets nobody
// in by itself. Each user is changed all at once; the answers are one for each user.

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
	"moldau/internal/metadata"
	"moldau/internal/security"
	"moldau/internal/wire"
)

func alterUserScramCredentials(ctx context.Context, rc *requestContext, req *kmsg.AlterUserSCRAMCredentialsRequest) kmsg.Response {
	resp := kmsg.NewPtrAlterUserSCRAMCredentialsResponse()
	var alterations []controller.ScramAlteration
	for _, d := range req.Deletions {
		a := controller.ScramAlteration{User: d.Name, Remove: true, Credential: metadata.ScramCredential{Mechanism: metadata.ScramMechanism(d.Mechanism)}}
		a.Code, a.Message = checkScram(d.Name, d.Mechanism)
		alterations = append(alterations, a)
	}
	for _, u := range req.Upsertions {
		c, code, message := ScramCredential(u.Name, u.Mechanism, u.Iterations, u.Salt, u.SaltedPassword)
		alterations = append(alterations, controller.ScramAlteration{User: u.Name, Credential: c, Code: code, Message: message})
	}
	answer := func(user string, code wire.Code, message string) {
		r := kmsg.NewAlterUserSCRAMCredentialsResponseResult()
		r.User, r.ErrorCode = user, int16(code)
		if code != wire.None {
			r.ErrorMessage = text(message)
		}
		resp.Results = append(resp.Results, r)
	}
	if !rc.allowed(clusterName) {
		var told []string
		for _, a := range alterations {
			if !slices.Contains(told, a.User) {
				told = append(told, a.User)
				answer(a.User, wire.ClusterAuthorizationFailed, wire.ClusterAuthorizationFailed.Message())
			}
		}
		return resp
	}
	rc.waits()
	for _, r := range rc.table.o.Cluster.AlterScram(ctx, alterations) {
		answer(r.User, r.Code, r.Message)
	}
	return resp
}

// maxScramIterations is Kafka's limit: each authentication costs the client as many hashes.
const maxScramIterations = 16384

// checkScram is what names and mechanisms must be.
func checkScram(user string, mechanism int8) (wire.Code, string) {
	switch {
	case user == "":
		return wire.UnacceptableCredential, "Username must not be empty"
	case scramNames[metadata.ScramMechanism(mechanism)] == "":
		return wire.UnsupportedSaslMechanism, "Unknown SCRAM mechanism"
	}
	return wire.None, ""
}

// ScramCredential makes a credential of a salted password; a code and a message say what is wrong with it.
func ScramCredential(user string, mechanism int8, iterations int32, salt, salted []byte) (c metadata.ScramCredential, code wire.Code, message string) {
	if code, message = checkScram(user, mechanism); code != wire.None {
		return c, code, message
	}
	switch {
	case iterations < security.MinScramIterations:
		return c, wire.UnacceptableCredential, "Too few iterations"
	case iterations > maxScramIterations:
		return c, wire.UnacceptableCredential, "Too many iterations"
	}
	stored, server := security.ScramKeys(scramNames[metadata.ScramMechanism(mechanism)], salted)
	return metadata.ScramCredential{Mechanism: metadata.ScramMechanism(mechanism), Iterations: iterations, Salt: slices.Clone(salt), StoredKey: stored, ServerKey: server}, wire.None, ""
}
