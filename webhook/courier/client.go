package courier

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"github.com/farthing402/farthing/x402"
)

const (
	urlBytesMax         = 2048
	responseHeaderBytes = 32 << 10
	responseBytesRead   = 4 << 10 // of a body, so that its connection can be used again
)

// attemptTimeout is what a receiver has to accept an event: the specification's advice.
const attemptTimeout = 15 * time.Second

// errForbidden is why an address is not connected to.
var errForbidden = errors.New("the address is not public")

// NewClient makes a client that follows no redirect, uses no proxy, and connects only to public addresses: they are looked
// at when they are connected to, after names are resolved, so that no name can point inside. With private it connects to
// any address.
func NewClient(private bool) *http.Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	if !private {
		dialer.Control = func(_, address string, _ syscall.RawConn) error {
			a, err := netip.ParseAddrPort(address)
			if err != nil || !public(a.Addr()) {
				return errForbidden
			}
			return nil
		}
	}
	return &http.Client{
		Timeout:       attemptTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: dialer.DialContext, ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: 10 * time.Second, MaxResponseHeaderBytes: responseHeaderBytes, MaxIdleConnsPerHost: perEndpointMax, MaxIdleConns: 256,
			IdleConnTimeout: 30 * time.Second,
		},
	}
}

// reserved are the networks that lead nowhere, inside, or through a translator to either, besides those that [netip.Addr]
// knows by name: https://www.iana.org/assignments/iana-ipv4-special-registry and -ipv6-.
var reserved = func() (list []netip.Prefix) {
	for _, text := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10",
	} {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}()

// public reports whether an address is of the public internet.
func public(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() {
		return false
	}
	for _, p := range reserved {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// checkURL says whether events can be sent to a URL. With private, plain HTTP and addresses that are not public are taken.
func checkURL(text string, private bool) error {
	refuse := func(format string, args ...any) error {
		return x402.Errorf("webhook_url_invalid", "url: "+format, args...)
	}
	if len(text) > urlBytesMax {
		return refuse("longer than %d bytes", urlBytesMax)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Host == "", u.Hostname() == "":
		return refuse("it is none")
	case u.Scheme != "https" && !(private && u.Scheme == "http"):
		return refuse("its scheme is not https")
	case u.User != nil:
		return refuse("it has a name or password in it")
	case u.Fragment != "":
		return refuse("it has a fragment, which is never sent")
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil && !private && !public(a) {
		return refuse("%w", errForbidden)
	}
	return nil
}

// trouble says in few words why there was no answer. Its owner reads it, so it tells nothing of this machine.
func trouble(err error) string {
	var dns *net.DNSError
	var certificate *tls.CertificateVerificationError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, errForbidden):
		return errForbidden.Error()
	case errors.As(err, &dns):
		return "its name cannot be resolved"
	case errors.As(err, &certificate):
		return "its certificate does not hold"
	case errors.Is(err, context.Canceled):
		return "the sender was stopped"
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Sprintf("no answer in %s", attemptTimeout)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	}
	return "no answer that is HTTP"
}
