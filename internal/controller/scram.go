package controller

import (
	"slices"

	"moldau/internal/metadata"
	"moldau/internal/wire"
)

// ScramAlteration sets a user's credential for a mechanism, or removes it.
type ScramAlteration struct {
	User       string
	Credential metadata.ScramCredential
	Remove     bool // only Credential.Mechanism counts

	// Code and Message are what was wrong with it already.
	Code    wire.Code
	Message string
}

// ScramResult answers for one user.
type ScramResult struct {
	User    string
	Code    wire.Code
	Message string
}

// AlterScram plans changes to the credentials of users, each user's all at once. A user may be named once in a request (KIP-554).
// The results are one for each user, in the order of the request.
func AlterScram(im *metadata.Image, alterations []ScramAlteration) (Plan, []ScramResult) {
	var plan Plan
	var results []ScramResult
	at := map[string]int{}
	writes := map[string]Write{}
	for _, a := range alterations {
		i, twice := at[a.User]
		if !twice {
			i = len(results)
			at[a.User] = i
			results = append(results, ScramResult{User: a.User})
		}
		r := &results[i]
		if r.Code != wire.None {
			continue
		}
		if twice {
			r.Code, r.Message = wire.DuplicateResource, "A user credential cannot be altered twice in the same request"
			continue
		}
		have := slices.Clone(im.ScramCredentials(a.User))
		j := slices.IndexFunc(have, func(c metadata.ScramCredential) bool { return c.Mechanism == a.Credential.Mechanism })
		switch {
		case a.Code != wire.None:
			r.Code, r.Message = a.Code, a.Message
			continue
		case a.Remove && j < 0:
			r.Code, r.Message = wire.ResourceNotFound, "Attempt to delete a user credential that does not exist"
			continue
		case a.Remove:
			have = slices.Delete(have, j, j+1)
		case j >= 0:
			have[j] = a.Credential
		default:
			have = append(have, a.Credential)
		}
		w := Write{Key: metadata.UserKey(a.User), Action: Delete}
		if len(have) > 0 {
			slices.SortFunc(have, func(x, y metadata.ScramCredential) int { return int(x.Mechanism) - int(y.Mechanism) })
			w = put(metadata.UserKey(a.User), metadata.EncodeUser(have))
		}
		writes[a.User] = w
	}
	for i := range results {
		if w, ok := writes[results[i].User]; ok && results[i].Code == wire.None {
			plan.add(i, w)
		}
	}
	return plan, results
}
