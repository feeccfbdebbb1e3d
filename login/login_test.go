package login_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/login"
	"github.com/farthing402/farthing/login/logintest"
	"github.com/farthing402/farthing/x402"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	logintest.Run(t, func(t *testing.T) login.Book { return login.NewMemory() })
}

// vector is the published sign-in.
var vector = func() (v struct {
	Inputs struct {
		Domain, Address, Statement, URI, Nonce, IssuedAt, Expiration string
		ChainID                                                      uint64 `json:"chainId"`
	}
	Message   string
	Digest    evm.Hash
	Signature evm.Signature
}) {
	b, err := os.ReadFile("testdata/siwe.json")
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil {
		panic(err)
	}
	return v
}()

var (
	key  = must(evm.NewKey(append(make([]byte, 31), 7)))
	noon = time.Date(2026, 6, 22, 10, 0, 30, 0, time.UTC)
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

type world struct {
	*testing.T
	*login.Service
	book *login.Memory
	now  time.Time
}

func newWorld(t *testing.T, change ...func(*login.Config)) *world {
	t.Helper()
	w := &world{T: t, book: login.NewMemory(), now: noon}
	c := login.Config{
		Book: w.book, Secret: [32]byte{1}, ChainID: vector.Inputs.ChainID, Domain: vector.Inputs.Domain, URI: vector.Inputs.URI,
		Statement: vector.Inputs.Statement,
		Grant: func(context.Context, evm.Address) (login.Grant, error) {
			return login.Grant{Role: "user", Scopes: []string{"tab:read"}}, nil
		},
	}
	for _, f := range change {
		f(&c)
	}
	var err error
	if w.Service, err = login.New(c); err != nil {
		t.Fatal(err)
	}
	return w
}

// message is what a wallet signs for a challenge.
func (w *world) message(c login.Challenge, address evm.Address) x402.SignIn {
	return x402.SignIn{
		Domain: c.Domain, Address: address.String(), Statement: c.Statement, URI: c.URI, Version: "1", ChainID: "eip155:84532", Type: "eip191",
		Nonce: c.Nonce, IssuedAt: c.IssuedAt.Format(time.RFC3339), ExpirationTime: c.Expiration.Format(time.RFC3339),
	}
}

func (w *world) sign(message string) []byte {
	s := must(key.Sign(context.Background(), evm.HashPersonal([]byte(message))))
	return s[:]
}

func (w *world) login() login.Tokens {
	w.Helper()
	m := must(w.message(w.Nonce(key.Address(), w.now), key.Address()).Message())
	t, err := w.Verify(context.Background(), key.Address(), m, w.sign(m), w.now)
	if err != nil {
		w.Fatal(err)
	}
	return t
}

func code(err error) string {
	var e *x402.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// The published message is what our client writes, and what its signature is over.
func TestMessageOfTheVectors(t *testing.T) {
	t.Parallel()
	i := vector.Inputs
	m, err := x402.SignIn{
		Domain: i.Domain, Address: i.Address, Statement: i.Statement, URI: i.URI, Version: "1", ChainID: "eip155:84532", Type: "eip191",
		Nonce: i.Nonce, IssuedAt: i.IssuedAt, ExpirationTime: i.Expiration,
	}.Message()
	if err != nil || m != vector.Message {
		t.Errorf("got %q, %v", m, err)
	}
	if evm.HashPersonal([]byte(vector.Message)) != vector.Digest {
		t.Error("digest differs")
	}
	w := newWorld(t)
	// The service finds nothing wrong with it but a nonce that it did not give.
	_, err = w.Verify(t.Context(), evm.MustAddress(i.Address), vector.Message, vector.Signature[:], noon)
	if code(err) != "login_invalid" || !strings.Contains(err.Error(), "nonce") {
		t.Errorf("got %v", err)
	}
}

func TestLoginGivesTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	got := w.login()
	who, grant, err := w.Bearer(got.Access, w.now)
	if err != nil || who != key.Address() || grant.Role != "user" || strings.Join(grant.Scopes, " ") != "tab:read" {
		t.Errorf("%s, %+v, %v", who, grant, err)
	}
	if !strings.HasPrefix(got.Refresh, "refresh_") || len(got.Refresh) != len("refresh_")+64 || got.ExpiresIn != 15*time.Minute {
		t.Errorf("tokens %+v", got)
	}
	var claims map[string]any
	if err := json.Unmarshal(must(base64.RawURLEncoding.DecodeString(strings.Split(got.Access, ".")[1])), &claims); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sub", "role", "scopes", "iss", "aud", "iat", "exp", "nbf", "jti", "chain_id"} {
		if claims[name] == nil {
			t.Errorf("no claim %s in %v", name, claims)
		}
	}
	if claims["sub"] != key.Address().Lower() {
		t.Errorf("subject %v", claims["sub"])
	}
}

// Each fault breaks one rule; the code is the documented one.
func TestSignInIsRefused(t *testing.T) {
	t.Parallel()
	other := must(evm.NewKey(append(make([]byte, 31), 8))).Address()
	change := func(f func(*x402.SignIn)) func(*x402.SignIn, *string) {
		return func(m *x402.SignIn, _ *string) { f(m) }
	}
	text := func(old, new string) func(*x402.SignIn, *string) {
		return func(_ *x402.SignIn, s *string) { *s = strings.Replace(*s, old, new, 1) }
	}
	for _, c := range []struct {
		name   string
		change func(*x402.SignIn, *string)
		want   string
	}{
		{"of another account", change(func(m *x402.SignIn) { m.Address = other.String() }), "login_invalid"},
		{"version 2", text("Version: 1", "Version: 2"), "login_invalid"},
		{"for another chain", change(func(m *x402.SignIn) { m.ChainID = "eip155:1" }), "login_invalid"},
		{"for another domain", change(func(m *x402.SignIn) { m.Domain = "evil.example.com" }), "login_invalid"},
		{"for another path", change(func(m *x402.SignIn) { m.URI += "/" }), "login_invalid"},
		{"another statement", change(func(m *x402.SignIn) { m.Statement = "Give me everything." }), "login_invalid"},
		{"no statement", change(func(m *x402.SignIn) { m.Statement = "" }), "login_invalid"},
		{"expired", change(func(m *x402.SignIn) { m.ExpirationTime = "2026-06-22T10:00:29Z" }), "login_invalid"},
		{"not valid yet", change(func(m *x402.SignIn) { m.NotBefore = "2026-06-22T10:00:31Z" }), "login_invalid"},
		{"time in words", change(func(m *x402.SignIn) { m.IssuedAt = "today" }), "login_invalid"},
		{"a nonce of its own", change(func(m *x402.SignIn) { m.Nonce = strings.Repeat("ab", 32) }), "login_invalid"},
		{"an upper-case nonce", change(func(m *x402.SignIn) { m.Nonce = strings.ToUpper(m.Nonce) }), "login_invalid"},
		{"a nonce that lives longer", change(func(m *x402.SignIn) { m.Nonce = "00000001" + m.Nonce[8:] }), "login_invalid"},
		{"no message", func(_ *x402.SignIn, s *string) { *s = "" }, "malformed_request"},
		{"no nonce", text("\nNonce: ", "\nOnce: "), "malformed_request"},
		{"two statements", text("Sign in to 4mica.\n", "Sign in to 4mica.\nAnd more.\n"), "malformed_request"},
		{"a line more", func(_ *x402.SignIn, s *string) { *s += "\nAmount: 1" }, "malformed_request"},
		{"a newline more", func(_ *x402.SignIn, s *string) { *s += "\n" }, "malformed_request"},
		{"chain in words", text("Chain ID: 84532", "Chain ID: base"), "malformed_request"},
		{"too long", change(func(m *x402.SignIn) { m.RequestID = strings.Repeat("x", 5000) }), "malformed_request"},
		{"domain in other letters", change(func(m *x402.SignIn) { m.Domain = "Core.Example.Com" }), ""},
		{"resources and a request id", change(func(m *x402.SignIn) { m.RequestID, m.Resources = "1", []string{"https://a", "https://b"} }), ""},
		{"address in lower case", change(func(m *x402.SignIn) { m.Address = strings.ToLower(m.Address) }), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			m := w.message(w.Nonce(key.Address(), w.now), key.Address())
			c.change(&m, new(string))
			said := must(m.Message())
			c.change(&m, &said)
			_, err := w.Verify(t.Context(), key.Address(), said, w.sign(said), w.now)
			if code(err) != c.want || (err == nil) != (c.want == "") {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestSignatureOfSomebodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := must(w.message(w.Nonce(key.Address(), w.now), key.Address()).Message())
	other := must(evm.NewKey(append(make([]byte, 31), 8)))
	theirs := must(other.Sign(t.Context(), evm.HashPersonal([]byte(m))))
	for name, signature := range map[string][]byte{"another key's": theirs[:], "none": nil, "short": theirs[:64], "over another text": w.sign(m + " ")} {
		if _, err := w.Verify(t.Context(), key.Address(), m, signature, w.now); code(err) != "login_signature_invalid" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.Verify(t.Context(), key.Address(), m, w.sign(m), w.now); err != nil {
		t.Errorf("refusals used the nonce: %v", err)
	}
}

// Defect 13 of the existing system: a row for every nonce that is asked for. Here asking writes nothing, and yet each is
// used once, on whichever node.
func TestNonceIsNoWriteAndUsedOnce(t *testing.T) {
	t.Parallel()
	refuse := func(*login.Config) {}
	w := newWorld(t, refuse)
	w.Service.Book = nil // asking does not even need it
	c := w.Nonce(key.Address(), w.now)
	w.Service.Book = w.book
	second := newWorld(t, func(c *login.Config) { c.Book = w.book })
	m := must(w.message(c, key.Address()).Message())
	if _, err := w.Verify(t.Context(), key.Address(), m, w.sign(m), w.now); err != nil {
		t.Fatal(err)
	}
	for _, node := range []*world{w, second} {
		if _, err := node.Verify(t.Context(), key.Address(), m, w.sign(m), w.now); code(err) != "login_invalid" || !strings.Contains(err.Error(), "used") {
			t.Errorf("again: %v", err)
		}
	}
	// On the node that did not give it, too, and not past its end even if the message says nothing of one.
	late := w.message(w.Nonce(key.Address(), w.now), key.Address())
	late.ExpirationTime = ""
	m = must(late.Message())
	if _, err := second.Verify(t.Context(), key.Address(), m, w.sign(m), w.now.Add(6*time.Minute)); code(err) != "login_invalid" {
		t.Errorf("past its end: %v", err)
	}
	if _, err := second.Verify(t.Context(), key.Address(), m, w.sign(m), w.now.Add(4*time.Minute)); err != nil {
		t.Errorf("on the other node: %v", err)
	}
	stranger := newWorld(t, func(c *login.Config) { c.Secret = [32]byte{2} })
	m = must(w.message(w.Nonce(key.Address(), w.now), key.Address()).Message())
	if _, err := stranger.Verify(t.Context(), key.Address(), m, w.sign(m), w.now); code(err) != "login_invalid" {
		t.Errorf("a nonce of another secret: %v", err)
	}
}

// contract says of one signature that it is an account's.
type contract struct {
	address evm.Address
	err     error
	asked   *int
}

func (c contract) ValidSignature(_ context.Context, chain uint64, account evm.Address, digest evm.Hash, signature []byte) (bool, error) {
	*c.asked++
	return account == c.address && chain == 84532 && string(signature) == "open "+digest.String(), c.err
}

func TestContractsSignIn(t *testing.T) {
	t.Parallel()
	wallet, asked := evm.Address{0xc0}, 0
	w := newWorld(t, func(c *login.Config) { c.Wallets = contract{wallet, nil, &asked} })
	m := must(w.message(w.Nonce(wallet, w.now), wallet).Message())
	if _, err := w.Verify(t.Context(), wallet, m, []byte("close"), w.now); code(err) != "login_signature_invalid" {
		t.Errorf("wrong signature: %v", err)
	}
	if _, err := w.Verify(t.Context(), wallet, m, []byte("open "+evm.HashPersonal([]byte(m)).String()), w.now); err != nil {
		t.Error(err)
	}
	asked = 0
	w.login()
	if asked != 0 {
		t.Error("the chain was asked about a key's own signature")
	}
	down := newWorld(t, func(c *login.Config) { c.Wallets = contract{wallet, errors.New("down"), &asked} })
	m = must(w.message(w.Nonce(wallet, w.now), wallet).Message())
	if _, err := down.Verify(t.Context(), wallet, m, []byte("x"), w.now); code(err) != "chain_unreachable" {
		t.Errorf("chain away: %v", err)
	}
}

// Rotation: a refresh token is good once, and one that comes again ends its whole sign-in.
func TestRefreshRotatesAndReuseEndsTheFamily(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	first := w.login()
	bystander := w.login()
	second, err := w.Refresh(ctx, first.Refresh, w.now.Add(time.Minute))
	if err != nil || second.Refresh == first.Refresh || second.Access == first.Access {
		t.Fatalf("%+v, %v", second, err)
	}
	if who, _, err := w.Bearer(second.Access, w.now.Add(10*time.Minute)); err != nil || who != key.Address() {
		t.Errorf("%s, %v", who, err)
	}
	if _, err := w.Refresh(ctx, first.Refresh, w.now); code(err) != "token_invalid" {
		t.Errorf("the old one again: %v", err)
	}
	if _, err := w.Refresh(ctx, second.Refresh, w.now); code(err) != "token_invalid" {
		t.Errorf("the new one, after the old one came again: %v", err)
	}
	if bystander, err = w.Refresh(ctx, bystander.Refresh, w.now); err != nil {
		t.Errorf("another sign-in of the same account: %v", err)
	}
	if _, err := w.Refresh(ctx, bystander.Refresh, w.now.Add(31*24*time.Hour)); code(err) != "token_invalid" {
		t.Errorf("past its time: %v", err)
	}
	for _, text := range []string{"", "refresh_", "refresh_" + strings.Repeat("0", 64)} {
		if _, err := w.Refresh(ctx, text, w.now); code(err) != "token_invalid" {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestLogoutEndsASignIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.login()
	second := must(w.Refresh(t.Context(), first.Refresh, w.now))
	for i, want := range []bool{true, false} {
		if ended, err := w.Logout(t.Context(), second.Refresh, w.now); err != nil || ended != want {
			t.Errorf("logout %d: %v, %v", i, ended, err)
		}
	}
	if _, err := w.Refresh(t.Context(), second.Refresh, w.now); code(err) != "token_invalid" {
		t.Errorf("after logout: %v", err)
	}
	if ended, err := w.Logout(t.Context(), "refresh_x", w.now); err != nil || ended {
		t.Errorf("of nobody: %v, %v", ended, err)
	}
}

// Whoever may not log in gets no token, and none in exchange for one from before.
func TestGrantIsAskedEachTime(t *testing.T) {
	t.Parallel()
	refused := x402.Errorf("token_invalid", "account is revoked")
	var no error
	w := newWorld(t, func(c *login.Config) {
		c.Grant = func(context.Context, evm.Address) (login.Grant, error) { return login.Grant{Role: "admin"}, no }
	})
	tokens := w.login()
	if _, grant, _ := w.Bearer(tokens.Access, w.now); grant.Role != "admin" {
		t.Errorf("grant %+v", grant)
	}
	no = refused
	if _, err := w.Refresh(t.Context(), tokens.Refresh, w.now); !errors.Is(err, refused) {
		t.Errorf("refresh: %v", err)
	}
	m := must(w.message(w.Nonce(key.Address(), w.now), key.Address()).Message())
	if _, err := w.Verify(t.Context(), key.Address(), m, w.sign(m), w.now); !errors.Is(err, refused) {
		t.Errorf("verify: %v", err)
	}
	no = nil
	if _, err := w.Refresh(t.Context(), tokens.Refresh, w.now); err != nil {
		t.Errorf("the refusal used the token: %v", err)
	}
}

func TestAccessTokensThatAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := w.login().Access
	parts := strings.Split(good, ".")
	enc := base64.RawURLEncoding.EncodeToString
	unsigned := enc([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + parts[1] + "."
	admin := strings.Replace(string(must(base64.RawURLEncoding.DecodeString(parts[1]))), `"user"`, `"admin"`, 1)
	elsewhere := func(change func(*login.Config)) string { return newWorld(t, change).login().Access }
	for name, c := range map[string]struct {
		token string
		at    time.Time
	}{
		"expired":             {good, w.now.Add(15*time.Minute + leeway + time.Second)},
		"not valid yet":       {good, w.now.Add(-leeway - time.Second)},
		"unsigned":            {unsigned, w.now},
		"raised to admin":     {parts[0] + "." + enc([]byte(admin)) + "." + parts[2], w.now},
		"of another secret":   {elsewhere(func(c *login.Config) { c.Secret = [32]byte{2} }), w.now},
		"of another chain":    {elsewhere(func(c *login.Config) { c.ChainID = 84532; c.Issuer = "x" }), w.now},
		"for other people":    {elsewhere(func(c *login.Config) { c.Audience = "x" }), w.now},
		"a refresh token":     {w.login().Refresh, w.now},
		"nothing":             {"", w.now},
		"garbage":             {"a.b.c", w.now},
		"a good one and more": {good + "A", w.now},
	} {
		if _, _, err := w.Bearer(c.token, c.at); code(err) != "token_invalid" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, at := range []time.Time{w.now, w.now.Add(15 * time.Minute)} {
		if _, _, err := w.Bearer(good, at); err != nil {
			t.Errorf("at %s: %v", at, err)
		}
	}
}

const leeway = time.Minute

func TestKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := t.Context()
	k, text, err := w.NewKey(ctx, " ci ", []string{login.ScopeSuspend, login.ScopeKeys, login.ScopeSuspend}, w.now)
	if err != nil || !strings.HasPrefix(text, "ak_") || k.Name != "ci" || len(k.Scopes) != 2 {
		t.Fatalf("%+v, %q, %v", k, text, err)
	}
	if strings.Contains(text, k.ID) || strings.Contains(k.Hash.String(), text[3:]) {
		t.Error("the text of a key is kept")
	}
	if got, err := w.Key(ctx, text); err != nil || got.ID != k.ID {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "ak_", text[:len(text)-1], strings.ToUpper(text), k.Hash.String()} {
		if _, err := w.Key(ctx, bad); code(err) != "api_key_invalid" {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for range 2 {
		if got, err := w.RevokeKey(ctx, k.ID, w.now.Add(time.Minute)); err != nil || got.Revoked.IsZero() {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if _, err := w.Key(ctx, text); code(err) != "api_key_invalid" {
		t.Errorf("revoked: %v", err)
	}
	if _, err := w.RevokeKey(ctx, "nobody", w.now); code(err) != "not_found" {
		t.Error(err)
	}
	for name, make := range map[string]func() error{
		"no name": func() error { _, _, err := w.NewKey(ctx, " ", []string{login.ScopeKeys}, w.now); return err },
		"long name": func() error {
			_, _, err := w.NewKey(ctx, strings.Repeat("x", 101), []string{login.ScopeKeys}, w.now)
			return err
		},
		"no scope":  func() error { _, _, err := w.NewKey(ctx, "x", nil, w.now); return err },
		"odd scope": func() error { _, _, err := w.NewKey(ctx, "x", []string{"everything"}, w.now); return err },
	} {
		if err := make(); code(err) != "malformed_request" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if list, err := w.Keys(ctx); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
}

// FuzzMessage: whatever text comes, a sign-in is refused or is the one that was asked for.
func FuzzMessage(f *testing.F) {
	f.Add(vector.Message)
	f.Add(strings.Replace(vector.Message, "\n\nSign in to 4mica.\n", "\n\n", 1))
	f.Add(vector.Message + "\nNot Before: 2026-06-22T10:00:00Z\nResources:\n- https://a")
	f.Fuzz(func(t *testing.T, message string) {
		w := newWorld(t)
		if _, err := w.Verify(t.Context(), key.Address(), message, w.sign(message), w.now); err == nil {
			t.Errorf("signed in without a nonce: %q", message)
		}
	})
}

// What would make logins impossible, or unsafe, is refused when the service is made.
func TestConfig(t *testing.T) {
	t.Parallel()
	good := newWorld(t).Service.Config
	for name, change := range map[string]func(*login.Config){
		"no book": func(c *login.Config) { c.Book = nil }, "no secret": func(c *login.Config) { c.Secret = [32]byte{} },
		"no domain": func(c *login.Config) { c.Domain = "" }, "no chain": func(c *login.Config) { c.ChainID = 0 },
		"a token that never lived": func(c *login.Config) { c.AccessTTL = -1 }, "two lines": func(c *login.Config) { c.Statement = "a\nURI: b" },
	} {
		c := good
		change(&c)
		if _, err := login.New(c); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
