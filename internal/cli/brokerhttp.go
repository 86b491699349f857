package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// askHTTP asks a broker's HTTP listener for what Kafka's protocol has no request for, and reads the answer, which is JSON. address is
// where the listener is, "" for where the broker's configuration says.
func (cl *client) askHTTP(ctx context.Context, address string, c groupCoordinator, path string, answer any) error {
	local := false
	if address == "" {
		var err error
		if address, local, err = cl.httpOf(ctx, c); err != nil {
			return err
		}
	}
	meta, err := ask(ctx, cl, "", func(ctx context.Context) (kadm.Metadata, error) { return cl.adm.BrokerMetadata(ctx) })
	if err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, cl.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(asking, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return usagef("--http %q is no HOST:PORT", address)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		help := "name it with --http HOST:PORT; the ready line shows it"
		if local {
			help = fmt.Sprintf("it is only reached from the machine of broker %d, unless moldau.http.listener is set otherwise", c.ID)
		}
		cause := "the broker's HTTP listener does not answer"
		if errors.Is(err, syscall.ECONNREFUSED) {
			cause = "nothing listens where the broker's HTTP listener should be"
		}
		return &failure{cause: cause, value: join(address, networkReason(err)), help: help, err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return &failure{cause: "the broker's answer broke off", value: address, err: err}
	}
	if resp.StatusCode == http.StatusForbidden {
		return &failure{cause: "the broker tells of its clients only on its own machine", value: address, help: fmt.Sprintf("ask there, or set moldau.http.details=all on broker %d", c.ID)}
	}
	if resp.StatusCode != http.StatusOK {
		return &failure{cause: "the broker did not say", value: join(address, resp.Status, oneLine(errors.New(string(body)))),
			help: fmt.Sprintf("name the HTTP listener of broker %d with --http HOST:PORT", c.ID)}
	}
	var who struct{ ClusterID string }
	if json.Unmarshal(body, &who) != nil || who.ClusterID == "" || json.Unmarshal(body, answer) != nil {
		return notMoldau(address)
	}
	if who.ClusterID != meta.Cluster {
		return &failure{cause: "the HTTP listener is that of another cluster", value: join(address, who.ClusterID, "not "+meta.Cluster), help: "name the right one with --http HOST:PORT"}
	}
	return nil
}

func notMoldau(address string) error {
	return &failure{cause: "this is not a Moldau broker's HTTP listener", value: address, help: "name it with --http HOST:PORT"}
}

// httpOf is the address of a broker's HTTP listener, as its configuration says it.
func (cl *client) httpOf(ctx context.Context, c groupCoordinator) (address string, local bool, err error) {
	configs, err := cl.configs(ctx, kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(c.ID)), false)
	if err != nil {
		return "", false, err
	}
	for _, k := range configs {
		if k.Name != "moldau.http.listener" {
			continue
		}
		host, port, err := net.SplitHostPort(deref(k.Value))
		switch ip := net.ParseIP(host); {
		case err != nil:
			return "", false, &failure{cause: "the broker has no HTTP listener", value: fmt.Sprintf("broker %d, moldau.http.listener=%s", c.ID, deref(k.Value)), help: "set it, and the broker tells more than Kafka's protocol can"}
		case port == "0":
			return "", false, &failure{cause: "the broker's HTTP listener is on a port of its choice", help: "name it with --http HOST:PORT; the ready line shows it"}
		case host == "" || ip != nil && ip.IsUnspecified():
			host = c.Host
		default:
			local = host == "localhost" || ip != nil && ip.IsLoopback()
		}
		return net.JoinHostPort(host, port), local, nil
	}
	return "", false, &failure{cause: "who came and went is not known", value: fmt.Sprintf("broker %d", c.ID), help: "it is no Moldau broker, and Kafka does not remember it"}
}
