package main

import (
	"context"
	"encoding/hex"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/farthing402/farthing/api"
	"github.com/farthing402/farthing/login"
)

// houseFront is how a clearing house is reached, by whom, and how much they may ask for.
type houseFront struct {
	PublicURL    string `name:"public-url" help:"Where clients reach the clearing house; they sign in there. Default: http and the address it listens on." placeholder:"URL"`
	PublicRPCURL string `name:"public-rpc-url" help:"JSON-RPC of the chain that clients are told; default --rpc-url." placeholder:"URL"`
	MembersOnly  bool   `help:"Serve members only: farthing member add. Without it everybody is served who is not suspended."`
	EIP191       bool   `name:"eip191" help:"Also admit claims that are signed as text. They name no deployment: presented at another, they are good there too."`

	TrustProxy  []string `help:"Proxies whose X-Forwarded-For is believed." placeholder:"CIDR"`
	PayerRate   float64  `help:"Guarantees a second of one payer; 0: no limit." default:"0" placeholder:"N"`
	AddressRate float64  `help:"Guarantees and notes a second from one address; 0: no limit, as a gate posts for all its buyers." default:"0" placeholder:"N"`
	ReadRate    float64  `help:"Other requests a second from one address; 0: as many as are usual." default:"0" placeholder:"N"`

	LoginSecret string        `help:"File with 64 hexadecimal digits from which tokens are made, the same on every node; default one that the database keeps." placeholder:"FILE"`
	NonceTTL    time.Duration `name:"nonce-ttl" help:"How long what is to be signed for a login is good." default:"5m"`
	AccessTTL   time.Duration `name:"access-ttl" help:"How long an access token lives." default:"15m"`
	RefreshTTL  time.Duration `name:"refresh-ttl" help:"How long a refresh token lives." default:"720h"`
	Statement   string        `name:"login-statement" help:"What wallets show to whoever signs in; one line." placeholder:"TEXT"`
	Issuer      string        `name:"token-issuer" help:"Who access tokens say has made them." default:"farthing" placeholder:"NAME"`
	Audience    string        `name:"token-audience" help:"Whom access tokens say they are for." default:"farthing" placeholder:"NAME"`
}

// core makes the routes of the clearing house.
func (h *house) core(ctx context.Context) (http.Handler, error) {
	f := h.Front
	if f.PublicURL == "" {
		f.PublicURL = publicURL(h.listener.Addr())
	}
	u, err := url.Parse(f.PublicURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/")+u.RawQuery+u.Fragment != "" {
		return nil, misuse("--public-url %q: scheme and host, nothing more", f.PublicURL)
	}
	secret, err := h.loginSecret(ctx)
	if err != nil {
		return nil, err
	}
	logins, err := login.New(login.Config{
		Book: h.Store.Logins(), Secret: secret, ChainID: h.Deployment.ChainID, Domain: u.Host, URI: u.Scheme + "://" + u.Host,
		Statement: f.Statement, Issuer: f.Issuer, Audience: f.Audience, NonceTTL: f.NonceTTL, AccessTTL: f.AccessTTL, RefreshTTL: f.RefreshTTL,
		Wallets: h.Client, Grant: api.Grants(h.House, h.Operator.Address()),
	})
	if err != nil {
		return nil, misuse("%v", err)
	}
	c := h.apiConfig()
	c.Metrics = h.figures()
	c.Login, c.Admins, c.MetricsOpen = logins, append(c.Admins, h.Operator.Address()), h.Dev
	c.Limits = api.Limits{Payer: rateOf(f.PayerRate), Post: rateOf(f.AddressRate), Read: rateOf(f.ReadRate)}
	for _, text := range f.TrustProxy {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			if one, alone := netip.ParseAddr(text); alone == nil {
				p, err = one.Prefix(one.BitLen())
			}
		}
		if err != nil {
			return nil, misuse("--trust-proxy %q: an address, or a network such as 10.0.0.0/8", text)
		}
		c.Proxies = append(c.Proxies, p)
	}
	return api.New(c), nil
}

// publicURL is where clients on this machine reach what listens on an address.
func publicURL(at net.Addr) string {
	host, port, err := net.SplitHostPort(at.String())
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return "http://" + net.JoinHostPort("localhost", port)
	}
	return "http://" + at.String()
}

// inside serves this process itself, without logins.
func (h *house) inside() http.Handler {
	c := h.apiConfig()
	c.Inside = true
	return api.New(c)
}

func (h *house) apiConfig() api.Config {
	rpc := h.Front.PublicRPCURL
	if rpc == "" {
		rpc = h.RPC
	}
	return api.Config{
		House: h.House, Tokens: h.Deployment.Assets, RPCURL: rpc, Now: h.Now, Log: h.Log,
		Ready: h.certifies, Webhooks: h.Webhooks,
		Health: api.Health{DB: h.readable, Chain: h.healthy, Node: func() (string, bool) { return h.Node, h.leads.Load() }},
	}
}

// rateOf allows ten seconds' worth at once.
func rateOf(perSecond float64) api.Rate {
	if perSecond <= 0 {
		return api.Rate{}
	}
	return api.Rate{PerSecond: perSecond, Burst: int(max(1, 10*perSecond))}
}

// loginSecret reads the secret of tokens, or has the database make one for all its nodes.
func (h *house) loginSecret(ctx context.Context) (secret [32]byte, err error) {
	if h.Front.LoginSecret == "" {
		return h.Store.Secret(ctx, "logins")
	}
	text, err := os.ReadFile(h.Front.LoginSecret)
	if err != nil {
		return secret, fail("config_invalid", "--login-secret: %v", err)
	}
	raw, err := hex.DecodeString(strings.TrimPrefix(strings.TrimSpace(string(text)), "0x"))
	if err != nil || len(raw) != len(secret) {
		return secret, fail("config_invalid", "--login-secret %s: not 64 hexadecimal digits", h.Front.LoginSecret).hint("make one: openssl rand -hex 32")
	}
	return [32]byte(raw), nil
}
