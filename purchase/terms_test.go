package purchase_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func vectorTerms() purchase.Terms {
	return purchase.Terms{
		Purchase: "p_aaaqeayeaudaocajbifqydiob4", Quote: "Q", Price: "$0.00001 per token, minimum $0.0002",
		Scheme: "4mica-credit", Network: "eip155:84532",
		Asset:  evm.MustAddress("0x036CbD53842c5426634e7929541eC2318f3dCF7e"),
		Payee:  evm.MustAddress("0x2222222222222222222222222222222222222222"),
		Amount: money.Units(20000), Method: "POST", Resource: "https://api.example.com/generate?lang=en",
		Body:       purchase.BodyDigest([]byte(`{"prompt":"hello"}`)),
		Completion: "charged after success", Refund: "full on failure within 24h", Uncaptured: "never owed",
		Expires: 1782122460,
	}
}

type termsVector struct {
	Description string
	Terms       purchase.Terms
	BodyText    string
	Bytes       string
	Hash        evm.Hash
	Request     evm.Hash
}

// Other implementations compare themselves with this file, so our bytes may not drift from it.
func TestTermsVector(t *testing.T) {
	t.Parallel()
	terms := vectorTerms()
	got := termsVector{
		Description: "Bytes is the canonical encoding of Terms (docs/spec/purchase.md section 4), Hash its keccak256, Request the request digest.",
		Terms:       terms, BodyText: `{"prompt":"hello"}`,
		Bytes: hex.EncodeToString(terms.Bytes()), Hash: terms.Hash(),
		Request: purchase.RequestDigest(terms.Method, terms.Resource, terms.Body),
	}
	want := published(t, "terms.json", got)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// published returns the test vector in a file of the spec; -update puts got there first.
func published[T any](t *testing.T, name string, got T) (want T) {
	t.Helper()
	file := filepath.Join("..", "docs", "spec", "vectors", name)
	if *update {
		b, err := json.MarshalIndent(got, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&want); err != nil {
		t.Fatal(err)
	}
	return want
}

// change returns a copy of v, a struct, with field i altered.
func change[T any](t *testing.T, v T, i int) (T, string) {
	t.Helper()
	f := reflect.ValueOf(&v).Elem().Field(i)
	switch {
	case f.Kind() == reflect.String:
		f.SetString(f.String() + "x")
	case f.Kind() == reflect.Int64:
		f.SetInt(f.Int() + 1)
	case f.Type() == reflect.TypeFor[money.Amount]():
		a, _ := f.Interface().(money.Amount).Add(money.Units(1))
		f.Set(reflect.ValueOf(a))
	case f.Kind() == reflect.Array:
		f.Index(0).SetUint(f.Index(0).Uint() ^ 1)
	default:
		t.Fatalf("field of kind %s: say how to change it", f.Kind())
	}
	return v, reflect.TypeOf(v).Field(i).Name
}

// A field added to the struct and forgotten in the encoding would not be under the signature.
func TestEveryTermIsUnderTheHash(t *testing.T) {
	t.Parallel()
	whole := vectorTerms()
	for i := range reflect.TypeFor[purchase.Terms]().NumField() {
		if changed, name := change(t, whole, i); changed.Hash() == whole.Hash() {
			t.Errorf("%s can be changed without changing the hash", name)
		}
	}
}

func TestNeighbouringTextsDoNotRunTogether(t *testing.T) {
	t.Parallel()
	a, b := vectorTerms(), vectorTerms()
	a.Completion, a.Refund = "ab", "c"
	b.Completion, b.Refund = "a", "bc"
	if a.Hash() == b.Hash() {
		t.Error("two different terms have one hash")
	}
	if purchase.RequestDigest("GE", "Thttp://x/", evm.Hash{}) == purchase.RequestDigest("GET", "http://x/", evm.Hash{}) {
		t.Error("two different requests have one digest")
	}
}

func TestQuote(t *testing.T) {
	t.Parallel()
	secret := [32]byte{1}
	q := purchase.Quote{
		Route: "GET /quote/{symbol}", Scheme: "4mica-credit", Network: "eip155:84532",
		Asset: evm.Address{1}, Payee: evm.Address{2}, Amount: money.Units(500), Price: "$0.0005",
		Completion: "charged after success", Refund: "r", Uncaptured: "u", Expires: 1000,
	}
	token := q.Token(secret)
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	if err := q.Check(secret, token, at(1000)); err != nil {
		t.Errorf("in its last second: %v", err)
	}
	if err := q.Check(secret, token, at(1001)); err != purchase.ErrQuoteExpired {
		t.Errorf("a second late: %v", err)
	}
	if err := q.Check([32]byte{2}, token, at(1)); err != purchase.ErrQuoteForged {
		t.Errorf("of another seller: %v", err)
	}
	for _, forged := range []string{"", token[1:], token + "A", token + "=", strings.Repeat("A", 43), token[:42] + "\n"} {
		if err := q.Check(secret, forged, at(1)); err != purchase.ErrQuoteForged {
			t.Errorf("token %q: %v", forged, err)
		}
	}
	for i := range reflect.TypeFor[purchase.Quote]().NumField() {
		changed, name := change(t, q, i)
		if err := changed.Check(secret, token, at(1)); err != purchase.ErrQuoteForged {
			t.Errorf("%s altered: %v", name, err)
		}
	}
}

func TestIDs(t *testing.T) {
	t.Parallel()
	id := purchase.NewID(bytes.NewReader(make([]byte, 16)))
	if want := "p_" + strings.Repeat("a", 26); id != want || !purchase.ValidID(id) {
		t.Errorf("id %q, want %q", id, want)
	}
	if a, b := purchase.IDFromPayment(evm.Hash{1}), purchase.IDFromPayment(evm.Hash{2}); a == b || !purchase.ValidID(a) {
		t.Errorf("ids of two payments: %q and %q", a, b)
	}
	for _, bad := range []string{
		"", "p_", id[:27], id + "a", "P_" + id[2:], "p_" + strings.Repeat("A", 26), "p_" + strings.Repeat("1", 26),
		"p_" + strings.Repeat("a", 25) + "b", // spare bits set
		"p_" + strings.Repeat("a", 25) + "\n",
	} {
		if purchase.ValidID(bad) {
			t.Errorf("%q passes for an id", bad)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("an id was made without randomness")
		}
	}()
	purchase.NewID(bytes.NewReader(make([]byte, 15)))
}
