package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"moldau/internal/controller"
	"moldau/internal/handler"
	"moldau/internal/metadata"
	"moldau/internal/security"
	"moldau/internal/wire"
)

// AddUserOptions says which user a stopped broker gets.
type AddUserOptions struct {
	RunOptions
	Name, Password string
	Mechanisms     []string // SCRAM-SHA-256, SCRAM-SHA-512
	Iterations     int
}

// saltBytes is as much as Kafka's tools take.
const saltBytes = 20

// AddUser gives a user of a stopped broker a password, all mechanisms or none. A data directory that there is not yet is made, as a
// first start would.
func AddUser(ctx context.Context, o AddUserOptions) (err error) {
	log, err := newLogger(o.RunOptions)
	if err != nil {
		return err
	}
	c, err := loadConfig(o.RunOptions, log)
	if err != nil {
		return err
	}
	b := newBroker(Options{Config: c, Log: log})
	defer func() { err = errors.Join(err, b.teardown(context.Background())) }()
	if b.metaDir, err = findMetaDir(b.fs, c); err != nil {
		return err
	}
	credentials, err := credentialsOf(o)
	if err != nil {
		return err
	}
	if err := b.openDirs(); err != nil {
		return err
	}
	if err := b.openStore(); err != nil {
		return err
	}
	if err := b.refuseOrphans(ctx); err != nil {
		return err
	}
	if err := b.join(ctx, nil); err != nil {
		return err
	}
	for _, a := range credentials {
		for _, r := range b.cluster.AlterScram(ctx, []controller.ScramAlteration{a}) {
			if r.Code != wire.None {
				return fmt.Errorf("user %s: %s (%w)", o.Name, r.Message, r.Code)
			}
		}
	}
	return nil
}

func credentialsOf(o AddUserOptions) ([]controller.ScramAlteration, error) {
	numbers := map[string]metadata.ScramMechanism{security.ScramSHA256: metadata.ScramSHA256, security.ScramSHA512: metadata.ScramSHA512}
	var out []controller.ScramAlteration
	for _, m := range o.Mechanisms {
		salt := make([]byte, saltBytes)
		_, _ = rand.Read(salt) // never fails
		salted, err := security.SaltPassword(m, o.Password, salt, max(1, o.Iterations))
		if err != nil {
			return nil, err
		}
		c, code, message := handler.ScramCredential(o.Name, int8(numbers[m]), int32(o.Iterations), salt, salted)
		if code != wire.None {
			return nil, fmt.Errorf("user %q, %s: %s", o.Name, m, message)
		}
		out = append(out, controller.ScramAlteration{User: o.Name, Credential: c})
	}
	return out, nil
}
