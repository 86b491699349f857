package handler

// DescribeUserScramCredentials, key 50, version 0 (KIP-554).
//
// No users means all that have credentials. The answer has mechanisms and iterations, never salts or keys. A user who has none is
// RESOURCE_NOT_FOUND, one who is asked for twice DUPLICATE_RESOURCE.

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/wire"
)

func describeUserScramCredentials(_ context.Context, rc *requestContext, req *kmsg.DescribeUserSCRAMCredentialsRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeUserSCRAMCredentialsResponse()
	if !rc.allowed(clusterName) {
		resp.ErrorCode, resp.ErrorMessage = int16(wire.ClusterAuthorizationFailed), text(wire.ClusterAuthorizationFailed.Message())
		return resp
	}
	im := rc.table.o.Cluster.Image()
	var names []string
	count := map[string]int{}
	for _, u := range req.Users {
		if count[u.Name]++; count[u.Name] == 1 {
			names = append(names, u.Name)
		}
	}
	if len(req.Users) == 0 {
		names = im.ScramUsers()
	}
	for _, name := range names {
		r := kmsg.NewDescribeUserSCRAMCredentialsResponseResult()
		r.User = name
		credentials := im.ScramCredentials(name)
		switch {
		case count[name] > 1:
			r.ErrorCode = int16(wire.DuplicateResource)
			r.ErrorMessage = text(fmt.Sprintf("Cannot describe SCRAM credentials for the same user twice in a single request: %s", name))
		case credentials == nil:
			r.ErrorCode = int16(wire.ResourceNotFound)
			r.ErrorMessage = text(fmt.Sprintf("Attempt to describe a user credential that does not exist: %s", name))
		}
		if r.ErrorCode == 0 {
			for _, c := range credentials {
				info := kmsg.NewDescribeUserSCRAMCredentialsResponseResultCredentialInfo()
				info.Mechanism, info.Iterations = int8(c.Mechanism), c.Iterations
				r.CredentialInfos = append(r.CredentialInfos, info)
			}
		}
		resp.Results = append(resp.Results, r)
	}
	return resp
}
