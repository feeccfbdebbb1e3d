package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/x402"
)

// refreshMargin is how long before its end an access token is exchanged.
const refreshMargin = 60 * time.Second

// WithSigner signs in as an account when a route asks for a login, and stays signed in.
func WithSigner(key evm.Signer) Option {
	return func(c *Client) { c.session = &session{key: key, turn: make(chan struct{}, 1)} }
}

// session is a login. It is made when it is first needed.
type session struct {
	key  evm.Signer
	turn chan struct{} // holds one element while somebody signs in or looks: the others wait for the outcome

	access, refresh string    // guarded by turn
	until           time.Time // guarded by turn: when access ends, by our clock
}

type tokens struct {
	Access    string `json:"access_token"`
	Refresh   string `json:"refresh_token"`
	ExpiresIn int64  `json:"expires_in"`
}

// token returns an access token, other than one that was refused.
func (c *Client) token(ctx context.Context, refused string) (string, error) {
	s := c.session
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return "", c.unreachable(ctx, ctx.Err())
	}
	if s.access != "" && s.access != refused && time.Now().Before(s.until) {
		return s.access, nil
	}
	var t tokens
	if s.refresh != "" {
		err := c.say(ctx, "/auth/refresh", map[string]string{"refresh_token": s.refresh}, &t)
		s.refresh = "" // whatever came of it, it is not good any more
		if err != nil && !errors.Is(err, &x402.Error{Code: "token_invalid"}) {
			return "", err
		}
	}
	if t.Access == "" {
		var err error
		if t, err = c.signIn(ctx); err != nil {
			return "", err
		}
	}
	lives := time.Duration(max(0, t.ExpiresIn)) * time.Second
	s.access, s.refresh, s.until = t.Access, t.Refresh, time.Now().Add(lives-min(refreshMargin, lives/2))
	return s.access, nil
}

// signIn signs what the clearing house asks for, provided that it is a login there: one that asks for a signature that is good
// somewhere else gets none.
func (c *Client) signIn(ctx context.Context) (t tokens, err error) {
	address := c.session.key.Address()
	var q struct {
		Nonce string `json:"nonce"`
		SIWE  struct {
			Domain     string `json:"domain"`
			URI        string `json:"uri"`
			ChainID    uint64 `json:"chainId"`
			Statement  string `json:"statement"`
			Expiration string `json:"expiration"`
			IssuedAt   string `json:"issuedAt"`
		} `json:"siwe"`
	}
	if err := c.say(ctx, "/auth/nonce", map[string]string{"address": address.Lower()}, &q); err != nil {
		return t, err
	}
	m := q.SIWE
	if err := c.isHere(m.Domain, m.URI); err != nil {
		return t, &x402.Error{Code: "login_invalid", Message: fmt.Sprintf("clearing house %s asks for a login elsewhere: %v", c.host, err),
			Hint: "use the address that its operator names; it is set there with --public-url"}
	}
	message, err := x402.SignIn{
		Domain: m.Domain, Address: address.String(), Statement: m.Statement, URI: m.URI, Version: "1", ChainID: fmt.Sprint("eip155:", m.ChainID),
		Type: "eip191", Nonce: q.Nonce, IssuedAt: m.IssuedAt, ExpirationTime: m.Expiration,
	}.Message()
	if err != nil {
		return t, &x402.Error{Code: "login_invalid", Message: fmt.Sprintf("clearing house %s asks to sign what is no login: %v", c.host, err)}
	}
	signature, err := c.session.key.Sign(ctx, evm.HashPersonal([]byte(message)))
	if err != nil {
		return t, err
	}
	err = c.say(ctx, "/auth/verify", map[string]string{"address": address.Lower(), "message": message, "signature": signature.String()}, &t)
	if err == nil && t.Access == "" {
		err = c.unreachable(ctx, errors.New("signed in and gave no token"))
	}
	return t, err
}

// isHere says whether a domain and URI are those of the clearing house's address. Names of this machine are one.
func (c *Client) isHere(domain, uri string) error {
	base, err := url.Parse(c.base)
	if err != nil {
		return err
	}
	u, err := url.Parse(uri)
	if err != nil || !strings.EqualFold(u.Scheme, base.Scheme) || !sameHost(u.Host, base.Host, base.Scheme) {
		return fmt.Errorf("%q", clip(uri))
	}
	if !sameHost(domain, base.Host, base.Scheme) {
		return fmt.Errorf("%q", clip(domain))
	}
	return nil
}

func sameHost(a, b, scheme string) bool {
	split := func(s string) (string, string) {
		u := url.URL{Host: strings.ToLower(s)}
		host, port := u.Hostname(), u.Port()
		if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
			host = "localhost"
		}
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[scheme]
		}
		return host, port
	}
	hostA, portA := split(a)
	hostB, portB := split(b)
	return hostA == hostB && portA == portB
}

// say sends a request that needs no login.
func (c *Client) say(ctx context.Context, path string, body, out any) error {
	return c.do(ctx, http.MethodPost, path, "", body, out)
}

// getOwn is get for what is shown to its owner.
func (c *Client) getOwn(ctx context.Context, path string, out any) error {
	return c.own(ctx, http.MethodGet, path, nil, out)
}

// own sends a request with a login, if there is a key; one whose token has ended meanwhile is sent again with another.
func (c *Client) own(ctx context.Context, method, path string, body, out any) error {
	if c.session == nil {
		return c.do(ctx, method, path, "", body, out)
	}
	refused := ""
	for {
		token, err := c.token(ctx, refused)
		if err != nil {
			return err
		}
		err = c.do(ctx, method, path, token, body, out)
		if refused == "" && (errors.Is(err, &x402.Error{Code: "token_invalid"}) || errors.Is(err, &x402.Error{Code: "unauthorized"})) {
			refused = token
			continue
		}
		return err
	}
}
