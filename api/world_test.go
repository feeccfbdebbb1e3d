package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
	"github.com/farthing402/farthing/login"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/network"
	"github.com/farthing402/farthing/x402"
)

var update = flag.Bool("update", false, "rewrite golden files")

// vectors is what testdata/4mica-credit.json says: the published bytes of the protocol.
var vectors = func() (v struct {
	Common struct {
		ChainID uint64                         `json:"chainId"`
		Domain  struct{ Name, Version string } `json:"eip712Domain"`
		Vault   evm.Address                    `json:"core4MicaAddress"`
		CertDom evm.Hash                       `json:"guaranteeDomainSeparatorV1"`
	}
	BLS struct {
		SecretKey string
		PublicKey json.RawMessage `json:"publicKeyJson"`
	}
	V1           struct{ RequestBody json.RawMessage }
	V2           struct{ RequestBody json.RawMessage }
	Certificate2 struct{ Claims, Signature string } `json:"certificateV2"`
	Certificate  struct {
		ResponseJSON json.RawMessage `json:"responseJson"`
		Text         string          `json:"cycleIdText"`
		ID           string          `json:"cycleIdHex"`
	} `json:"certificateV1"`
}) {
	b, err := os.ReadFile("testdata/4mica-credit.json")
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil {
		panic(err)
	}
	return v
}()

const (
	start  = 1782086400 // of the cycle in the vectors
	signed = 1782122400 // when the vectors' payer signed
)

var (
	deployment = guarantee.Deployment{
		ChainID: vectors.Common.ChainID, Name: vectors.Common.Domain.Name, Version: vectors.Common.Domain.Version,
		Vault: vectors.Common.Vault, ClearingHouse: evm.MustAddress("0x9999999999999999999999999999999999999999"),
	}
	dollar   = evm.MustAddress("0x036CbD53842c5426634e7929541eC2318f3dCF7e")
	buyer    = evm.MustAddress("0x70997970C51812dc3A010C7d01b50e0d17dc79C8") // of the vectors
	schedule = clearing.Schedule{Asset: dollar, From: start, Length: 86400, Cutoff: 3600, Post: 7200, Challenge: 7200, Repost: 3600, Redeem: 86400}
)

// keys are parties of the tests, besides the vectors' buyer.
var keys = func() []*evm.PrivateKey {
	list := make([]*evm.PrivateKey, 4)
	for i := range list {
		secret := evm.Keccak256([]byte("key"), []byte{byte(i)})
		var err error
		if list[i], err = evm.NewKey(secret[:]); err != nil {
			panic(err)
		}
	}
	return list
}()

func party(i int) evm.Address { return keys[i].Address() }

// plenty is a limit that no test reaches unless it wants to.
var plenty = Rate{PerSecond: 1e6, Burst: 1e6}

// operator is in charge of the clearing house.
var operator = keys[3]

// packer stands in for a chain: it packs calls, and the tests say what came of them.
type packer struct{}

func (packer) Post(c clearing.CycleRef, generation, chunk uint64, height uint8, positions []byte) (evm.Call, error) {
	return evm.Call{To: deployment.ClearingHouse, Data: positions}, nil
}

func (packer) Commit(c clearing.CycleRef, root evm.Hash, total money.Amount, deadline uint64, chunks int) (evm.Call, error) {
	return evm.Call{To: deployment.ClearingHouse, Data: root[:]}, nil
}

func (packer) MarkDefaulted(cycle evm.Hash, debtor evm.Address, amount money.Amount, proof []evm.Hash) (evm.Call, error) {
	return evm.Call{To: deployment.ClearingHouse, Data: debtor[:]}, nil
}

func (packer) Finalize(cycle evm.Hash) (evm.Call, error) {
	return evm.Call{To: deployment.ClearingHouse, Data: cycle[:]}, nil
}

func (packer) Release(c clearing.CycleRef, generation, chunk uint64, positions []byte) (evm.Call, error) {
	return evm.Call{To: deployment.ClearingHouse, Data: positions}, nil
}

// world is a handler over a house over a book in memory.
type world struct {
	*testing.T
	house   *clearing.House
	login   *login.Service
	memory  *clearing.Memory
	server  *httptest.Server
	handler http.Handler
	log     *lines
	block   uint64
	logs    uint64

	mu  sync.Mutex
	now time.Time // guarded by mu
	ids uint64    // guarded by mu
}

// lines is what was logged.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newWorld(t *testing.T, change ...func(*Config, *clearing.Config)) *world {
	t.Helper()
	secret, err := hex.DecodeString(strings.TrimPrefix(vectors.BLS.SecretKey, "0x"))
	if err != nil {
		t.Fatal(err)
	}
	authority, err := guarantee.NewAuthority(secret)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, memory: clearing.NewMemory(), log: &lines{}, now: time.Unix(signed, 0)}
	hc := clearing.Config{Book: w.memory, Chain: packer{}, Deployment: deployment, Authority: authority}
	c := Config{
		Tokens: []network.Token{{Symbol: "USDC", Address: dollar, Decimals: 6}}, RPCURL: "https://rpc.example.org",
		Admins: []evm.Address{operator.Address()}, Limits: Limits{Login: plenty, Read: plenty, Refused: plenty},
		Log: slog.New(slog.NewJSONHandler(w.log, nil)),
		Now: func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now },
	}
	for _, f := range change {
		f(&c, &hc)
	}
	if w.house, err = clearing.New(hc); err != nil {
		t.Fatal(err)
	}
	c.House = w.house
	w.server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.handler.ServeHTTP(rw, r) }))
	t.Cleanup(w.server.Close)
	if w.login, err = login.New(login.Config{
		Book: login.NewMemory(), Secret: [32]byte{1}, ChainID: deployment.ChainID, Domain: strings.TrimPrefix(w.server.URL, "http://"), URI: w.server.URL,
		Grant: Grants(w.house, c.Admins...),
	}); err != nil {
		t.Fatal(err)
	}
	c.Login = w.login
	w.handler = New(c)
	w.chain(start, clearing.Event{Kind: clearing.ScheduleSet, Asset: dollar, Schedule: &schedule})
	for _, who := range []evm.Address{buyer, party(0), party(1)} {
		w.chain(start, clearing.Event{Kind: clearing.Deposited, Account: who, Asset: dollar, Amount: money.Units(1_000_000)})
	}
	return w
}

// chain applies a block with events on both streams.
func (w *world) chain(at uint64, events ...clearing.Event) {
	w.Helper()
	w.block++
	for i := range events {
		w.logs++
		events[i].LogIndex, events[i].TxHash = w.logs, evm.Keccak256(binary.BigEndian.AppendUint64(nil, w.logs))
	}
	b := clearing.Block{Number: w.block, Time: at, Hash: evm.Keccak256(binary.BigEndian.AppendUint64([]byte("block"), w.block))}
	for _, s := range []clearing.Stream{clearing.Head, clearing.Confirmed} {
		if err := w.house.Apply(context.Background(), s, b, events); err != nil {
			w.Fatal(err)
		}
	}
}

func (w *world) setTime(at uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = time.Unix(int64(at), 0)
}

// sign makes a guarantee that nobody has made before.
func (w *world) sign(payer int, payee evm.Address, amount uint64) guarantee.Signed {
	w.Helper()
	w.mu.Lock()
	w.ids++
	id := evm.Keccak256(binary.BigEndian.AppendUint64(nil, w.ids))
	now := uint64(w.now.Unix())
	w.mu.Unlock()
	s, err := guarantee.Sign(context.Background(), keys[payer], deployment, guarantee.Claims{
		Payer: party(payer), Payee: payee, Asset: dollar, ReqID: id, Amount: money.Units(amount), Timestamp: now,
	})
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// close nets the cycle and, if the commit is mined, has it committed.
func (w *world) close(committed bool) {
	w.Helper()
	end := schedule.From + schedule.Length
	for _, at := range []uint64{end, end + schedule.Cutoff} {
		w.setTime(at)
		w.chain(at)
		if err := w.house.CloseDue(context.Background(), time.Unix(int64(at), 0), at); err != nil {
			w.Fatal(err)
		}
	}
	if !committed {
		return
	}
	ref := clearing.CycleRef{Asset: dollar, Start: start}
	c, err := w.house.Cycle(context.Background(), ref.String())
	if err != nil {
		w.Fatal(err)
	}
	at := end + schedule.Cutoff + 60
	w.setTime(at)
	w.chain(at,
		clearing.Event{Kind: clearing.PositionsPosted, Cycle: ref.ID()},
		clearing.Event{Kind: clearing.CycleCommitted, Cycle: ref.ID(), Asset: dollar, Root: c.Root, Amount: c.Total, Time: at + schedule.Challenge})
}

// token signs a key in.
func (w *world) token(key *evm.PrivateKey) string {
	w.Helper()
	w.mu.Lock()
	now := w.now
	w.mu.Unlock()
	c := w.login.Nonce(key.Address(), now)
	message, err := x402.SignIn{
		Domain: c.Domain, Address: key.Address().String(), Statement: c.Statement, URI: c.URI, Version: "1", ChainID: fmt.Sprint("eip155:", c.ChainID),
		Type: "eip191", Nonce: c.Nonce, IssuedAt: c.IssuedAt.Format(time.RFC3339), ExpirationTime: c.Expiration.Format(time.RFC3339),
	}.Message()
	if err != nil {
		w.Fatal(err)
	}
	signature, err := key.Sign(context.Background(), evm.HashPersonal([]byte(message)))
	if err != nil {
		w.Fatal(err)
	}
	t, err := w.login.Verify(context.Background(), key.Address(), message, signature[:], now)
	if err != nil {
		w.Fatal(err)
	}
	return t.Access
}

// ask makes a request as the operator, who may read everything, and returns status and body. Whoever posts is nobody.
func (w *world) ask(method, path string, body any) (int, []byte) {
	w.Helper()
	header := http.Header{}
	if method != "POST" || !strings.HasPrefix(path, "/core/guarantees") && !strings.HasPrefix(path, "/core/notes") {
		header.Set("Authorization", "Bearer "+w.token(operator))
	}
	status, _, out := w.send(method, path, header, body)
	return status, out
}

// as makes a request as somebody, nobody if key is nil.
func (w *world) as(key *evm.PrivateKey, method, path string, body any) (int, []byte) {
	w.Helper()
	header := http.Header{}
	if key != nil {
		header.Set("Authorization", "Bearer "+w.token(key))
	}
	status, _, out := w.send(method, path, header, body)
	return status, out
}

// send makes a request and returns status, header and body, which must be as the description says.
func (w *world) send(method, path string, header http.Header, body any) (int, http.Header, []byte) {
	w.Helper()
	var in io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		in = bytes.NewReader(b)
	case json.RawMessage:
		in = bytes.NewReader(b)
	case string:
		in = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			w.Fatal(err)
		}
		in = bytes.NewReader(raw)
	}
	req, err := http.NewRequest(method, w.server.URL+path, in)
	if err != nil {
		w.Fatal(err)
	}
	req.Header = header.Clone()
	req.Header.Set("Content-Type", "application/json")
	resp, err := w.server.Client().Do(req)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	if got := resp.Header.Get("Content-Type"); got != "application/json" && resp.StatusCode != http.StatusOK {
		w.Errorf("%s %s: content type %q", method, path, got)
	}
	conforms(w, method, path, resp, out)
	return resp.StatusCode, resp.Header, out
}

// code is the code of an answer that refuses.
func code(body []byte) string {
	var e struct{ Error, Code, Hint string }
	if err := json.Unmarshal(body, &e); err != nil || e.Error == "" || e.Hint == "" {
		return "not a refusal: " + string(body)
	}
	return e.Code
}

// golden compares an answer with its file.
func (w *world) golden(name string, status int, body []byte) {
	w.Helper()
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, body, "", " "); err != nil {
		w.Fatalf("%s: %v in %q", name, err, body)
	}
	got := "HTTP " + http.StatusText(status) + "\n" + pretty.String()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			w.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		w.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		w.Errorf("%s differs (-want +got):\n%s", name, diff)
	}
}

const timeoutForTests = time.Minute // a loaded machine is slow; no test waits for it
