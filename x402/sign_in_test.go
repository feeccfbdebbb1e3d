package x402

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
)

func mustURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestSignInAsThePackageMakesIt(t *testing.T) {
	t.Parallel()
	v := readExtensionVectors(t)
	now := time.Unix(v.About.Clock, 0)
	s, e := ReadSignIn(with(HeaderSignIn, v.SignIn.Header))
	if e != nil {
		t.Fatal(e)
	}
	if m, err := s.Message(); err != nil || m != v.SignIn.Message {
		t.Errorf("message %q (%v)\nwant %q", m, err, v.SignIn.Message)
	}
	if again, err := EncodeHeader(s); err != nil || again != v.SignIn.Header {
		t.Errorf("written as %s (%v)", decoded(t, again), err)
	}
	if a, err := s.Check(t.Context(), mustURL(t, "https://api.example.com"), now, nil); err != nil || a.String() != v.About.Address {
		t.Errorf("signed in as %s (%v)", a, err)
	}
	bare := SignIn{
		Domain: "api.example.com", Address: v.About.Address, URI: "https://api.example.com/x", Version: "1", ChainID: "eip155:8453", Type: "eip191",
		Nonce: "a1b2c3d4e5f67890a1b2c3d4e5f67890", IssuedAt: "2026-01-01T00:00:00.000Z", NotBefore: "2026-01-01T00:00:00.000Z", RequestID: "r-1",
	}
	if m, err := bare.Message(); err != nil || m != v.SignIn.WithoutStatement {
		t.Errorf("without a statement %q (%v)\nwant %q", m, err, v.SignIn.WithoutStatement)
	}

	// Our own terms, our own client: the same text as theirs.
	entry, err := DeclareSignIn("https://api.example.com/premium-data", "Sign in to access premium data", []string{"solana:x", "eip155:84532"}, [16]byte{0xa1, 0xb2}, now)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"info":{"domain":"api.example.com","uri":"https://api.example.com/premium-data","version":"1","nonce":"a1b20000000000000000000000000000","issuedAt":"2026-01-01T00:00:00.000Z",` +
		`"resources":["https://api.example.com/premium-data"],"expirationTime":"2026-01-01T00:05:00.000Z","statement":"Sign in to access premium data"},` +
		`"supportedChains":[{"chainId":"solana:x","type":"eip191"},{"chainId":"eip155:84532","type":"eip191"}],`
	if !strings.HasPrefix(string(entry), want) {
		t.Errorf("declared %s", entry)
	}
	entry = json.RawMessage(strings.Replace(string(entry), "a1b20000000000000000000000000000", "a1b2c3d4e5f67890a1b2c3d4e5f67890", 1))
	terms := PaymentRequired{Extensions: map[string]json.RawMessage{SignInKey: entry}}
	header, err := terms.AnswerSignIn(t.Context(), v.key(t), mustURL(t, "https://api.example.com/premium-data?x=1"))
	if err != nil || header != v.SignIn.Header {
		t.Errorf("answered %s (%v)\nwant %s", decoded(t, header), err, v.SignIn.JSON)
	}
	for name, asked := range map[string]string{"another host": "https://bank.example/", "another scheme": "http://api.example.com/", "another port": "https://api.example.com:8443/"} {
		if header, err := terms.AnswerSignIn(t.Context(), v.key(t), mustURL(t, asked)); !errors.Is(err, &Error{Code: "offer_invalid"}) || header != "" {
			t.Errorf("%s: signed in there: %s (%v)", name, header, err)
		}
	}
	for name, entry := range map[string]string{"no network of ours": `{"info":{},"supportedChains":[{"chainId":"solana:x","type":"ed25519"}]}`, "none": `{"info":{}}`} {
		terms.Extensions[SignInKey] = json.RawMessage(entry)
		if header, err := terms.AnswerSignIn(t.Context(), v.key(t), mustURL(t, "https://api.example.com/")); err != nil || header != "" {
			t.Errorf("%s: %s (%v)", name, header, err)
		}
	}
	terms.Extensions[SignInKey] = json.RawMessage(`{"info":7}`)
	if _, err := terms.AnswerSignIn(t.Context(), v.key(t), mustURL(t, "https://api.example.com/")); !errors.Is(err, &Error{Code: "offer_invalid"}) {
		t.Errorf("an entry that is none: %v", err)
	}
	if header, err := (PaymentRequired{}).AnswerSignIn(t.Context(), v.key(t), mustURL(t, "https://api.example.com/")); err != nil || header != "" {
		t.Errorf("not offered: %s (%v)", header, err)
	}
	if _, err := DeclareSignIn("/relative", "", nil, [16]byte{}, now); err == nil {
		t.Error("a path was taken for an address")
	}
}

// signed signs a sign-in anew after a change.
func signedIn(t *testing.T, key evm.Signer, s SignIn, change func(*SignIn)) SignIn {
	t.Helper()
	change(&s)
	m, err := s.Message()
	if err != nil {
		return s
	}
	signature, err := key.Sign(t.Context(), evm.HashPersonal([]byte(m)))
	if err != nil {
		t.Fatal(err)
	}
	s.Signature = signature.String()
	return s
}

type wallets func(chain uint64, account evm.Address) (bool, error)

func (w wallets) ValidSignature(_ context.Context, chain uint64, account evm.Address, _ evm.Hash, _ []byte) (bool, error) {
	return w(chain, account)
}

func TestSignInsThatAreRefused(t *testing.T) {
	t.Parallel()
	v := readExtensionVectors(t)
	key := v.key(t)
	now := time.Unix(v.About.Clock, 0)
	read, e := ReadSignIn(with(HeaderSignIn, v.SignIn.Header))
	if e != nil {
		t.Fatal(e)
	}
	wallet := evm.MustAddress("0x00000000000000000000000000000000000000aa").String()
	yes := wallets(func(chain uint64, account evm.Address) (bool, error) {
		return chain == 84532 && account.String() == wallet, nil
	})
	down := errors.New("no answer")
	at := func(d time.Duration) string { return now.Add(d).UTC().Format(signInTime) }
	for _, tt := range []struct {
		name    string
		change  func(*SignIn) // before it is signed
		after   func(*SignIn) // and after
		wallets Wallets
		now     time.Duration
		want    string // "", a code, or "fault"
	}{
		{name: "as it should be"},
		{name: "the domain in capitals", change: func(s *SignIn) { s.Domain = "API.example.com" }},
		{name: "the scheme's own port", change: func(s *SignIn) { s.URI = "https://api.example.com:443/" }},
		{name: "the address in lower case", change: func(s *SignIn) { s.Address = strings.ToLower(s.Address) }},
		{name: "five minutes later", now: 5 * time.Minute},
		{name: "a time without fractions", change: func(s *SignIn) { s.IssuedAt = "2026-01-01T00:00:00Z" }},
		{name: "a time in another zone", change: func(s *SignIn) { s.IssuedAt = "2026-01-01T01:00:00+01:00" }},
		{name: "without an end", change: func(s *SignIn) { s.ExpirationTime = "" }},
		{name: "a wallet that agrees", change: func(s *SignIn) { s.Address = wallet }, after: func(s *SignIn) { s.Signature = "0x0102" }, wallets: yes},
		{name: "a wallet with 65 bytes that are not its owner's", change: func(s *SignIn) { s.Address = wallet }, wallets: yes},

		{name: "another domain", change: func(s *SignIn) { s.Domain = "bank.example" }, want: "sign_in_invalid"},
		{name: "another port in the domain", change: func(s *SignIn) { s.Domain = "api.example.com:8443" }, want: "sign_in_invalid"},
		{name: "another host", change: func(s *SignIn) { s.URI = "https://bank.example/" }, want: "sign_in_invalid"},
		{name: "another scheme", change: func(s *SignIn) { s.URI = "http://api.example.com/" }, want: "sign_in_invalid"},
		{name: "a user in the address", change: func(s *SignIn) { s.URI = "https://api.example.com@bank.example/" }, want: "sign_in_invalid"},
		{name: "an address that is none", change: func(s *SignIn) { s.URI = "::" }, want: "sign_in_invalid"},
		{name: "issued too long ago", now: 5*time.Minute + time.Millisecond, want: "sign_in_expired"},
		{name: "issued in time to come", now: -time.Millisecond, want: "sign_in_expired"},
		{name: "expired", change: func(s *SignIn) { s.ExpirationTime = at(time.Minute) }, now: 61 * time.Second, want: "sign_in_expired"},
		{name: "not valid yet", change: func(s *SignIn) { s.NotBefore = at(time.Minute) }, now: 59 * time.Second, want: "sign_in_expired"},
		{name: "no time", change: func(s *SignIn) { s.IssuedAt = "" }, want: "sign_in_invalid"},
		{name: "a time that is none", change: func(s *SignIn) { s.IssuedAt = "yesterday" }, want: "sign_in_invalid"},
		{name: "an end that is none", change: func(s *SignIn) { s.ExpirationTime = "never" }, want: "sign_in_invalid"},
		{name: "a beginning that is none", change: func(s *SignIn) { s.NotBefore = "now" }, want: "sign_in_invalid"},
		{name: "version 2", after: func(s *SignIn) { s.Version = "2" }, want: "sign_in_invalid"},
		{name: "another kind of chain", after: func(s *SignIn) { s.ChainID = "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp" }, want: "sign_in_invalid"},
		{name: "another kind of signature", after: func(s *SignIn) { s.Type = "ed25519" }, want: "sign_in_invalid"},
		{name: "a chain of a second spelling", after: func(s *SignIn) { s.ChainID = "eip155:084532" }, want: "sign_in_invalid"},
		{name: "no chain", after: func(s *SignIn) { s.ChainID = "eip155:" }, want: "sign_in_invalid"},
		{name: "a line smuggled in", after: func(s *SignIn) { s.Statement = "x\n\nURI: https://bank.example/" }, want: "sign_in_invalid"},
		{name: "an address that is none of an account", after: func(s *SignIn) { s.Address = "0x70" }, want: "sign_in_invalid"},
		{name: "another account", after: func(s *SignIn) { s.Address = wallet }, want: "sign_in_invalid"},
		{name: "another nonce", after: func(s *SignIn) { s.Nonce = "b1b2c3d4e5f67890a1b2c3d4e5f67890" }, want: "sign_in_invalid"},
		{name: "another chain", after: func(s *SignIn) { s.ChainID = "eip155:1" }, want: "sign_in_invalid"},
		{name: "resources changed", after: func(s *SignIn) { s.Resources = append(s.Resources, "https://api.example.com/all") }, want: "sign_in_invalid"},
		{name: "no signature", after: func(s *SignIn) { s.Signature = "" }, wallets: yes, want: "sign_in_invalid"},
		{name: "a signature that is no hexadecimal", after: func(s *SignIn) { s.Signature = "0xzz" }, wallets: yes, want: "sign_in_invalid"},
		{name: "a wallet without a chain to ask", change: func(s *SignIn) { s.Address = wallet }, want: "sign_in_invalid"},
		{name: "a wallet that does not agree", change: func(s *SignIn) { s.Address = wallet; s.ChainID = "eip155:1" }, wallets: yes, want: "sign_in_invalid"},
		{name: "a chain that does not answer", change: func(s *SignIn) { s.Address = wallet }, wallets: wallets(func(uint64, evm.Address) (bool, error) { return true, down }), want: "fault"},
	} {
		s := *read
		if tt.change != nil {
			s = signedIn(t, key, s, tt.change)
		}
		if tt.after != nil {
			tt.after(&s)
		}
		a, err := s.Check(t.Context(), mustURL(t, "https://api.example.com/premium-data"), now.Add(tt.now), tt.wallets)
		switch {
		case tt.want == "":
			if err != nil || !strings.EqualFold(a.String(), s.Address) {
				t.Errorf("%s: %s (%v)", tt.name, a, err)
			}
		case tt.want == "fault":
			if e := (*Error)(nil); !errors.Is(err, down) || errors.As(err, &e) || !a.IsZero() {
				t.Errorf("%s: %s (%v)", tt.name, a, err)
			}
		case !errors.Is(err, &Error{Code: tt.want}) || !a.IsZero():
			t.Errorf("%s: %s (%v), want %s", tt.name, a, err, tt.want)
		}
	}
}

func TestSignInHeadersThatAreRefused(t *testing.T) {
	t.Parallel()
	good := readExtensionVectors(t).SignIn.Header
	for name, h := range map[string]http.Header{
		"two": with(HeaderSignIn, good, good), "too long": with(HeaderSignIn, strings.Repeat("A", HeaderBytesMax+4)), "no base64": with(HeaderSignIn, "?"), "empty": with(HeaderSignIn, ""),
		"no JSON": with(HeaderSignIn, base64.StdEncoding.EncodeToString([]byte("x"))), "null": with(HeaderSignIn, base64.StdEncoding.EncodeToString([]byte("null"))),
		"a member twice": with(HeaderSignIn, base64.StdEncoding.EncodeToString([]byte(`{"nonce":"1","Nonce":"2"}`))), "a number": with(HeaderSignIn, base64.StdEncoding.EncodeToString([]byte(`{"nonce":1}`))),
	} {
		if s, e := ReadSignIn(h); e == nil || e.Code != "sign_in_invalid" || s != nil {
			t.Errorf("%s: %+v (%v)", name, s, e)
		}
	}
	if s, e := ReadSignIn(http.Header{}); s != nil || e != nil {
		t.Errorf("none: %+v (%v)", s, e)
	}
}

func FuzzSignIn(f *testing.F) {
	v := readExtensionVectors(f)
	f.Add(v.SignIn.JSON)
	f.Add(`{"domain":"api.example.com","uri":"https://api.example.com/","chainId":"eip155:1","type":"eip191","version":"1"}`)
	now := time.Unix(v.About.Clock, 0)
	f.Fuzz(func(t *testing.T, text string) {
		s, e := ReadSignIn(with(HeaderSignIn, base64.StdEncoding.EncodeToString([]byte(text))))
		if e != nil {
			return
		}
		if m, err := s.Message(); err == nil && strings.Count(m, "\n") != 8+moreLines(*s) {
			t.Fatalf("%q", m)
		}
		a, err := s.Check(t.Context(), mustURL(t, "https://api.example.com"), now, nil)
		if err == nil && a.String() != v.About.Address {
			t.Fatalf("%s signed %s", a, text)
		}
	})
}

// moreLines is how many lines a message has beyond those of the shortest.
func moreLines(s SignIn) (n int) {
	for _, m := range []string{s.Statement, s.ExpirationTime, s.NotBefore, s.RequestID} {
		if m != "" {
			n++
		}
	}
	if len(s.Resources) > 0 {
		n += 1 + len(s.Resources)
	}
	return n
}
