package x402

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
)

// HeaderSignIn carries a signed [SignIn] from client to server: base64 of its JSON.
const HeaderSignIn = "SIGN-IN-WITH-X"

// SignInAge is how old a sign-in may be.
const SignInAge = 5 * time.Minute

// signInTime is how times are written in a sign-in: UTC with milliseconds, as JavaScript has it.
const signInTime = "2006-01-02T15:04:05.000Z"

// SignIn is who asks, in their own words: the members of an EIP-4361 message and its signature.
type SignIn struct {
	Domain          string   `json:"domain"`
	Address         string   `json:"address"`
	Statement       string   `json:"statement,omitempty"`
	URI             string   `json:"uri"`
	Version         string   `json:"version"`
	ChainID         string   `json:"chainId"` // CAIP-2
	Type            string   `json:"type"`    // eip191
	Nonce           string   `json:"nonce"`
	IssuedAt        string   `json:"issuedAt"`
	ExpirationTime  string   `json:"expirationTime,omitempty"`
	NotBefore       string   `json:"notBefore,omitempty"`
	RequestID       string   `json:"requestId,omitempty"`
	Resources       []string `json:"resources,omitempty"`
	SignatureScheme string   `json:"signatureScheme,omitempty"`
	Signature       string   `json:"signature"`
}

// signInInfo is what terms give of a sign-in.
type signInInfo struct {
	Domain         string   `json:"domain"`
	URI            string   `json:"uri"`
	Version        string   `json:"version"`
	Nonce          string   `json:"nonce"`
	IssuedAt       string   `json:"issuedAt"`
	Resources      []string `json:"resources,omitempty"`
	ExpirationTime string   `json:"expirationTime,omitempty"`
	NotBefore      string   `json:"notBefore,omitempty"`
	RequestID      string   `json:"requestId,omitempty"`
	Statement      string   `json:"statement,omitempty"`
}

type signInChain struct {
	ChainID         string `json:"chainId"`
	Type            string `json:"type"`
	SignatureScheme string `json:"signatureScheme,omitempty"`
}

// signInOffer is the entry in terms.
type signInOffer struct {
	Info   signInInfo      `json:"info"`
	Chains []signInChain   `json:"supportedChains"`
	Schema json.RawMessage `json:"schema,omitempty"`
}

// DeclareSignIn returns the entry by which terms offer a client that has paid before to come back without paying: it signs
// in on one of the networks (CAIP-2). The nonce is 16 random bytes that the caller remembers, and takes back once. The
// error is an URL of the resource that is none.
func DeclareSignIn(resource, statement string, networks []string, nonce [16]byte, now time.Time) (json.RawMessage, error) {
	u, err := url.Parse(resource)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("sign-in for %q: not an absolute URL", resource)
	}
	o := signInOffer{
		Info: signInInfo{
			Domain: u.Host, URI: resource, Version: "1", Nonce: hex.EncodeToString(nonce[:]), IssuedAt: now.UTC().Format(signInTime),
			Resources: []string{resource}, ExpirationTime: now.Add(SignInAge).UTC().Format(signInTime), Statement: statement,
		},
		Chains: []signInChain{},
		Schema: json.RawMessage(`{"type":"object","required":["domain","address","uri","version","chainId","type","nonce","issuedAt","signature"]}`),
	}
	for _, n := range networks {
		o.Chains = append(o.Chains, signInChain{ChainID: n, Type: "eip191"})
	}
	return encodePlain(o)
}

// AnswerSignIn signs in at the seller of some terms with a key, for a request of a URL. It returns the value of [HeaderSignIn],
// and "" if the terms do not offer it. Terms that would have the key sign in somewhere else are offer_invalid: whoever
// shows them could take the signature there.
func (p PaymentRequired) AnswerSignIn(ctx context.Context, key evm.Signer, asked *url.URL) (header string, err error) {
	raw, ok := p.Extensions[SignInKey]
	if !ok {
		return "", nil
	}
	var o signInOffer
	if err := Decode(raw, &o); err != nil {
		return "", Errorf("offer_invalid", "extension %s: %w", SignInKey, err)
	}
	i := o.Info
	for _, c := range o.Chains {
		if c.Type != "eip191" || !strings.HasPrefix(c.ChainID, "eip155:") {
			continue
		}
		s := SignIn{
			Domain: i.Domain, Address: key.Address().String(), Statement: i.Statement, URI: i.URI, Version: i.Version, ChainID: c.ChainID, Type: c.Type,
			Nonce: i.Nonce, IssuedAt: i.IssuedAt, ExpirationTime: i.ExpirationTime, NotBefore: i.NotBefore, RequestID: i.RequestID, Resources: i.Resources,
			SignatureScheme: c.SignatureScheme,
		}
		if e := s.bound(asked); e != nil {
			return "", Errorf("offer_invalid", "extension %s: %w", SignInKey, e)
		}
		message, err := s.Message()
		if err != nil {
			return "", Errorf("offer_invalid", "extension %s: %w", SignInKey, err)
		}
		signature, err := key.Sign(ctx, evm.HashPersonal([]byte(message)))
		if err != nil {
			return "", err
		}
		s.Signature = signature.String()
		return EncodeHeader(s)
	}
	return "", nil
}

// ReadSignIn returns the sign-in of a request, or nil if it has none. The error is sign_in_invalid.
func ReadSignIn(h http.Header) (*SignIn, *Error) {
	values := h.Values(HeaderSignIn)
	switch {
	case len(values) == 0:
		return nil, nil
	case len(values) > 1:
		return nil, Errorf("sign_in_invalid", "%d %s headers", len(values), HeaderSignIn)
	case len(values[0]) > HeaderBytesMax:
		return nil, Errorf("sign_in_invalid", "%s header of %d bytes, at most %d are read", HeaderSignIn, len(values[0]), HeaderBytesMax)
	}
	b, err := decodeBase64(values[0])
	if err != nil {
		return nil, Errorf("sign_in_invalid", "%s header is not standard base64", HeaderSignIn)
	}
	s := new(*SignIn)
	if err := Decode(b, s); err != nil {
		return nil, Errorf("sign_in_invalid", "%s header: %w", HeaderSignIn, err)
	}
	if *s == nil {
		return nil, Errorf("sign_in_invalid", "%s header is no object", HeaderSignIn)
	}
	return *s, nil
}

// Wallets asks a chain whether a signature is one of a contract's (ERC-1271).
type Wallets interface {
	ValidSignature(ctx context.Context, chainID uint64, account evm.Address, digest evm.Hash, signature []byte) (bool, error)
}

// Check returns whose sign-in it is. It has to be for the origin at which the seller is reached, and of now. Checks come in
// this order: domain and uri, times (sign_in_expired), form, signature; all others are sign_in_invalid. That the nonce is
// one of ours and comes once is left to whoever made it: it is to be taken back only after this. Contracts' signatures need
// wallets, which may be nil; an error that is no *Error is the chain's.
func (s SignIn) Check(ctx context.Context, origin *url.URL, now time.Time, wallets Wallets) (evm.Address, error) {
	if err := s.bound(origin); err != nil {
		return evm.Address{}, Errorf("sign_in_invalid", "sign-in: %w", err)
	}
	if err := s.times(now); err != nil {
		return evm.Address{}, err
	}
	message, err := s.Message()
	if err != nil {
		return evm.Address{}, Errorf("sign_in_invalid", "sign-in: %w", err)
	}
	address, err := evm.ParseAddress(s.Address)
	if err != nil {
		return evm.Address{}, Errorf("sign_in_invalid", "sign-in: %w", err)
	}
	digest := evm.HashPersonal([]byte(message))
	if signature, err := evm.ParseSignature(s.Signature); err == nil {
		if signer, err := evm.Recover(digest, signature); err == nil && signer == address {
			return address, nil
		}
	}
	raw, err := hex.DecodeString(strings.TrimPrefix(s.Signature, "0x"))
	if err != nil || len(raw) == 0 || wallets == nil {
		return evm.Address{}, Errorf("sign_in_invalid", "sign-in: not signed by %s", address)
	}
	chain, err := s.chain()
	if err != nil {
		return evm.Address{}, Errorf("sign_in_invalid", "sign-in: %w", err)
	}
	valid, err := wallets.ValidSignature(ctx, chain, address, digest, raw)
	if err != nil {
		return evm.Address{}, fmt.Errorf("ask %s whether it signed in: %w", address, err)
	}
	if !valid {
		return evm.Address{}, Errorf("sign_in_invalid", "sign-in: not signed by %s", address)
	}
	return address, nil
}

// bound checks that the sign-in is for an origin.
func (s SignIn) bound(origin *url.URL) error {
	if !strings.EqualFold(s.Domain, origin.Host) {
		return fmt.Errorf("for domain %q, this is %s", clip(s.Domain), origin.Host)
	}
	u, err := url.Parse(s.URI)
	if err != nil || u.User != nil || !strings.EqualFold(u.Scheme, origin.Scheme) || !strings.EqualFold(hostPort(u), hostPort(origin)) {
		return fmt.Errorf("for %q, this is %s://%s", clip(s.URI), origin.Scheme, origin.Host)
	}
	return nil
}

// hostPort returns host and port, the scheme's own where none is written.
func hostPort(u *url.URL) string {
	if u.Port() == "" {
		switch strings.ToLower(u.Scheme) {
		case "http":
			return u.Hostname() + ":80"
		case "https":
			return u.Hostname() + ":443"
		}
	}
	return u.Hostname() + ":" + u.Port()
}

func (s SignIn) times(now time.Time) error {
	issued, err := time.Parse(time.RFC3339, s.IssuedAt)
	switch {
	case err != nil:
		return Errorf("sign_in_invalid", "sign-in: issuedAt %q is no time", clip(s.IssuedAt))
	case now.Sub(issued) > SignInAge:
		return Errorf("sign_in_expired", "sign-in is of %s ago, at most %s are allowed", now.Sub(issued).Round(time.Second), SignInAge)
	case issued.After(now):
		return Errorf("sign_in_expired", "sign-in is of a time to come")
	}
	if s.ExpirationTime != "" {
		expires, err := time.Parse(time.RFC3339, s.ExpirationTime)
		if err != nil {
			return Errorf("sign_in_invalid", "sign-in: expirationTime %q is no time", clip(s.ExpirationTime))
		}
		if expires.Before(now) {
			return Errorf("sign_in_expired", "sign-in expired %s ago", now.Sub(expires).Round(time.Second))
		}
	}
	if s.NotBefore != "" {
		begins, err := time.Parse(time.RFC3339, s.NotBefore)
		if err != nil {
			return Errorf("sign_in_invalid", "sign-in: notBefore %q is no time", clip(s.NotBefore))
		}
		if now.Before(begins) {
			return Errorf("sign_in_expired", "sign-in is not valid yet")
		}
	}
	return nil
}

// chain returns the number of the EVM network that the sign-in names.
func (s SignIn) chain() (uint64, error) {
	digits, ok := strings.CutPrefix(s.ChainID, "eip155:")
	id, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || digits[0] == '0' || digits[0] == '+' || s.Type != "eip191" {
		return 0, fmt.Errorf("by %q on %q, only eip191 on an EVM network is taken", clip(s.Type), clip(s.ChainID))
	}
	return id, nil
}

// Message returns the text that is signed: EIP-4361's, with the address as it was sent. A member that would change the
// meaning of the lines around it is an error.
func (s SignIn) Message() (string, error) {
	chain, err := s.chain()
	if err != nil {
		return "", err
	}
	if s.Version != "1" {
		return "", fmt.Errorf("version %q of sign-in is not known", clip(s.Version))
	}
	for _, m := range append([]string{s.Domain, s.Address, s.Statement, s.URI, s.Nonce, s.IssuedAt, s.ExpirationTime, s.NotBefore, s.RequestID}, s.Resources...) {
		if strings.ContainsFunc(m, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 }) {
			return "", errors.New("a member has more than one line")
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s wants you to sign in with your Ethereum account:\n%s\n\n", s.Domain, s.Address)
	if s.Statement != "" {
		b.WriteString(s.Statement + "\n")
	}
	fmt.Fprintf(&b, "\nURI: %s\nVersion: %s\nChain ID: %d\nNonce: %s\nIssued At: %s", s.URI, s.Version, chain, s.Nonce, s.IssuedAt)
	for _, line := range [][2]string{{"Expiration Time", s.ExpirationTime}, {"Not Before", s.NotBefore}, {"Request ID", s.RequestID}} {
		if line[1] != "" {
			b.WriteString("\n" + line[0] + ": " + line[1])
		}
	}
	if len(s.Resources) > 0 {
		b.WriteString("\nResources:")
		for _, r := range s.Resources {
			b.WriteString("\n- " + r)
		}
	}
	return b.String(), nil
}

// clip bounds text that somebody else wrote.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
