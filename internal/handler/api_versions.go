// ApiVersions (18), versions 0 to 4 (KIP-35, KIP-511, KIP-584).
//
//   - It is the first request of a connection: the client does not know yet what we speak. So the response header
//     is version 0 always, and a version that is too high is answered with a body of version 0,
//     UNSUPPORTED_VERSION and the range of this API; the client asks again with that.
//   - From version 3 on the client names its software; names that are not plain are INVALID_REQUEST.
//   - Features: what is supported, and what is finalized with its epoch. Up to version 3 features with a lowest
//     level of 0 are left out, because clients of that time do not understand them.

package handler

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
	"moldau/internal/network"
	"moldau/internal/wire"
)

// softwareName is what a name or version of a client's software may be (KIP-511).
var softwareName = regexp.MustCompile(`^[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?$`)

// maxSoftwareName bounds what is remembered of a name.
const maxSoftwareName = 128

// connState is what the handlers remember of a connection.
type connState struct {
	session                   *session       // nil before the first request
	software, softwareVersion string         // as the client says; "" if it does not
	clientID                  string         // of the last request; Start's
	burst                     []*produceCall // staged and not appended; Start's and Settle's
	accounts                  accounts
	walked                    int // batches in a row whose records were walked and good; Start's, while it counts
}

// walkFirst batches of a connection, and after an error as many again, are walked whole in any case; of the others one in
// walkSample, by chance.
const walkFirst, walkSample = 16, 64

// trusts reports whether the next batch of the connection may be judged by its header.
func (s *connState) trusts() bool {
	if s.walked < walkFirst {
		s.walked++
		return false
	}
	return rand.Uint32N(walkSample) != 0
}

// stateOf is the state of a connection; for the moments in which Conn.SetState may be called.
func stateOf(c *network.Conn) *connState {
	if s, ok := c.State().(*connState); ok {
		return s
	}
	s := &connState{}
	c.SetState(s)
	return s
}

func startAPIVersions(t *Table, rc requestContext, body []byte) (network.Call, error) {
	began, version := time.Now(), rc.header.Version
	if version < rc.row.min || version > rc.row.max {
		resp := kmsg.NewPtrApiVersionsResponse()
		resp.ErrorCode = int16(wire.UnsupportedVersion)
		resp.ApiKeys = []kmsg.ApiVersionsResponseApiKey{apiKey(*rc.row)}
		return answered(&rc, resp, 0), nil
	}
	req, err := t.decoder.DecodeRequest(rc.header.Key, version, body)
	if err != nil {
		return nil, err
	}
	resp := t.apiVersions(&rc, req.(*kmsg.ApiVersionsRequest))
	rc.work(began)
	return answered(&rc, resp, version), nil
}

func (t *Table) apiVersions(rc *requestContext, req *kmsg.ApiVersionsRequest) *kmsg.ApiVersionsResponse {
	resp := kmsg.NewPtrApiVersionsResponse()
	if req.Version >= 3 {
		if !softwareName.MatchString(req.ClientSoftwareName) || !softwareName.MatchString(req.ClientSoftwareVersion) {
			resp.ErrorCode = int16(wire.InvalidRequest)
			return resp
		}
		s := stateOf(rc.conn)
		s.software, s.softwareVersion = shortened(req.ClientSoftwareName), shortened(req.ClientSoftwareVersion)
	}
	resp.ApiKeys = t.apis
	for _, f := range controller.Features() {
		if f.Min > 0 || req.Version >= 4 {
			resp.SupportedFeatures = append(resp.SupportedFeatures, kmsg.ApiVersionsResponseSupportedFeature{Name: f.Name, MinVersion: f.Min, MaxVersion: f.Max})
		}
	}
	levels, epoch := t.o.Cluster.Image().Features()
	resp.FinalizedFeaturesEpoch = epoch
	for _, name := range sortedKeys(levels) {
		if level := levels[name]; level > 0 {
			f := kmsg.NewApiVersionsResponseFinalizedFeature()
			f.Name, f.MinVersionLevel, f.MaxVersionLevel = name, level, level
			resp.FinalizedFeatures = append(resp.FinalizedFeatures, f)
		}
	}
	return resp
}

func shortened(s string) string { return s[:min(len(s), maxSoftwareName)] }

// answeredCall is a request whose response was ready when it started.
type answeredCall struct {
	rc    *requestContext
	reply network.Reply
}

func answered(rc *requestContext, resp kmsg.Response, version int16) *answeredCall {
	throttle := rc.throttle(resp)
	resp.SetVersion(version)
	return &answeredCall{rc, network.Reply{
		Pieces:    []wire.Piece{{Bytes: wire.AppendResponse(nil, rc.header.CorrelationID, resp)}},
		Throttle:  throttle,
		LocalDone: time.Now(),
	}}
}

func (c *answeredCall) Ready() bool { return true }

func (c *answeredCall) Wait(context.Context) network.Reply { return c.reply }

func (c *answeredCall) Describe() []slog.Attr { return c.rc.describe() }

func (c *answeredCall) Release() {}
