package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"syscall"
)

// bind opens the sockets of one listener.
func bind(l Listener) ([]boundListener, error) {
	host, portText, err := net.SplitHostPort(l.Addr)
	if err != nil {
		return nil, fmt.Errorf("listener %s: %q is not host:port: %w", l.Name, l.Addr, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("listener %s: %q in %q is not a port (0 to 65535)", l.Name, portText, l.Addr)
	}
	if host != "localhost" {
		ln, err := listenTCP("tcp", l, host, int(port))
		if err != nil {
			return nil, err
		}
		return []boundListener{ln}, nil
	}
	return bindLocalhost(l, int(port))
}

// bindLocalhost binds 127.0.0.1 and ::1 with one port. A machine without IPv6 gets the first only.
func bindLocalhost(l Listener, port int) ([]boundListener, error) {
	for try := 0; ; try++ {
		v4, err := listenTCP("tcp4", l, "127.0.0.1", port)
		if err != nil {
			return nil, err
		}
		v6, err := listenTCP("tcp6", l, "::1", int(v4.addr.Port()))
		if err == nil {
			return []boundListener{v4, v6}, nil
		}
		if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EPROTONOSUPPORT) {
			return []boundListener{v4}, nil
		}
		_ = v4.ln.Close()
		if port != 0 || try == 20 { // with port 0, another port may be free on both
			return nil, err
		}
	}
}

func listenTCP(network string, l Listener, host string, port int) (boundListener, error) {
	addr := net.JoinHostPort(host, strconv.Itoa(port))
	ln, err := new(net.ListenConfig).Listen(context.Background(), network, addr)
	if err != nil {
		return boundListener{}, BindError("listener "+l.Name, addr, err)
	}
	tcp := ln.(*net.TCPListener)
	return boundListener{name: l.Name, ln: tcp, addr: addrPort(tcp.Addr())}, nil
}

// BindError says why what is named cannot listen on addr: who holds it, or what to do.
func BindError(what, addr string, err error) error {
	var dns *net.DNSError
	f := &bindFailure{err: err}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		by := "another process"
		if pid, command := portHolder(portOf(addr)); pid != 0 {
			by = fmt.Sprintf("process %d (%s)", pid, command)
		}
		f.text = fmt.Sprintf("%s: %s is in use by %s: stop it or choose another port", what, addr, by)
	case errors.Is(err, fs.ErrPermission):
		f.text = fmt.Sprintf("%s: no permission to listen on %s: ports below 1024 need root or the capability "+
			"CAP_NET_BIND_SERVICE; choose a port from 1024 on", what, addr)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		f.text = fmt.Sprintf("%s: no interface of this machine has the address of %s: "+
			"use one it has, or an empty host for all", what, addr)
	case errors.As(err, &dns):
		f.text = fmt.Sprintf("%s: the host of %s cannot be resolved (%s): use a name or an address that this machine has", what, addr, dns.Err)
	default:
		f.text = fmt.Sprintf("%s: cannot listen on %s: %v", what, addr, err)
	}
	return f
}

// bindFailure is a text for people over the system's error.
type bindFailure struct {
	text string
	err  error
}

func (f *bindFailure) Error() string { return f.text }
func (f *bindFailure) Unwrap() error { return f.err }

func portOf(addr string) int {
	_, text, _ := net.SplitHostPort(addr)
	port, _ := strconv.Atoi(text) // 0, which nobody holds, if it is none
	return port
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
