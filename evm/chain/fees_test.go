package chain

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/eth/ethconfig"
	"github.com/ethereum/go-ethereum/ethclient/simulated"
	gethnode "github.com/ethereum/go-ethereum/node"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// rollup is a chain in which contracts were put at some addresses by genesis, as rollups do with theirs.
func rollup(t *testing.T, code map[evm.Address]string) *Client {
	t.Helper()
	port := freePort(t)
	alloc := types.GenesisAlloc{}
	for at, what := range code {
		alloc[common.Address(at)] = types.Account{Code: hexutil.MustDecode(what)}
	}
	backend := simulated.NewBackend(alloc, func(n *gethnode.Config, _ *ethconfig.Config) {
		n.HTTPHost, n.HTTPPort, n.HTTPModules = "127.0.0.1", port, []string{"eth"}
	})
	t.Cleanup(func() { backend.Close() })
	client, err := Dial(t.Context(), fmt.Sprintf("http://127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// freePort is one below those that systems give to connections and to port 0, so that nobody else is given it meanwhile.
func freePort(t *testing.T) int {
	t.Helper()
	for range 1000 {
		port := 20_000 + int(uint32(os.Getpid())*37+nextPort.Add(1))%10_000
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

var nextPort atomic.Uint32

// Contracts that answer as the rollups' own do, assembled by hand. Each refuses any other call.
const (
	// getL1Fee(bytes) is 1000 + 7 × length
	oracleCode = "0x5f3560e01c6349948e0e14601157" + "5f5ffd5b" + "602435600702" + "6103e801" + "5f5260205ff3"
	// getPricesInWei() has 9000 as its second word of six
	gasInfoCode = "0x5f3560e01c6341b247a814601157" + "5f5ffd5b" + "612328602052" + "60c05ff3"
	// the same, but one word short
	shortCode = "0x5f3560e01c6341b247a814601157" + "5f5ffd5b" + "612328602052" + "60a05ff3"
	// any call is refused
	refusingCode = "0x5f5ffd"
	// every word is 2^256 − 1
	greedyCode = "0x5f195f525f1960205260c05ff3"
)

func TestARollupSaysWhatDataCosts(t *testing.T) {
	t.Parallel()
	transaction := make([]byte, 333)
	for name, c := range map[string]struct {
		code map[evm.Address]string
		wei  uint64
		by   string
	}{
		"a chain that is no rollup":   {nil, 0, ""},
		"a chain of the OP stack":     {map[evm.Address]string{opGasPriceOracle: oracleCode}, 1000 + 7*333, "GasPriceOracle"},
		"a chain of Arbitrum's":       {map[evm.Address]string{arbGasInfo: gasInfoCode}, 9000 * (333 + 68), "ArbGasInfo"},
		"code somewhere else is none": {map[evm.Address]string{{0x42}: oracleCode}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := rollup(t, c.code).DataFee(t.Context(), transaction)
			if err != nil || got.Wei != money.Units(c.wei) || got.By != c.by {
				t.Errorf("%d bytes cost %s by %q, %v", len(transaction), got.Wei, got.By, err)
			}
		})
	}
}

func TestAPriceOfDataThatCannotBeReadIsAnError(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]map[evm.Address]string{
		"an oracle that refuses":           {opGasPriceOracle: refusingCode},
		"an oracle of another kind":        {opGasPriceOracle: gasInfoCode},
		"a price list that is too short":   {arbGasInfo: shortCode},
		"a price that no product can hold": {arbGasInfo: greedyCode},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := rollup(t, code).DataFee(t.Context(), make([]byte, 10)); err == nil {
				t.Errorf("costs %s", got.Wei)
			}
		})
	}
}

func TestBytesArePackedAsContractsReadThem(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 31, 32, 33} {
		got := bytesArgument(slices.Repeat([]byte{0xab}, n))
		want := evm.Hash(evm.WordUint64(32)).String() + evm.Hash(evm.WordUint64(uint64(n))).String()[2:] + strings.Repeat("ab", n) + strings.Repeat("00", (32-n%32)%32)
		if hexutil.Encode(got) != want {
			t.Errorf("%d bytes: %x", n, got)
		}
	}
}

func TestGasPriceOnTheDevelopmentChain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.mine(30)
	price, err := w.client.GasPrice(t.Context())
	if err != nil || price.BaseWei == 0 || price.Wei() < price.BaseWei {
		t.Fatalf("%+v, %v", price, err)
	}
	got, err := w.client.GasRange(t.Context(), 7*24*time.Hour, 10)
	if err != nil {
		t.Fatal(err)
	}
	if got.LowWei == 0 || got.LowWei > price.BaseWei || got.HighWei < price.BaseWei || got.Samples != 10 {
		t.Errorf("now %+v, lately %+v", price, got)
	}
	if got.Span() != 30*time.Second {
		t.Errorf("thirty blocks a second apart span %v", got.Span())
	}
}

// past is a node that serves so many blocks, two seconds apart, of which it has forgotten those before first.
type past struct {
	head, first uint64
	fee         func(block uint64) string
	asked       int // blocks
}

func (p *past) client(t *testing.T) *Client {
	t.Helper()
	type request struct {
		ID     json.RawMessage
		Method string
		Params []any
	}
	answer := func(q request) string {
		result := `"0x2105"`
		switch q.Method {
		case "eth_getBlockByNumber":
			n := p.head
			if tag, _ := q.Params[0].(string); tag != "latest" {
				n, _ = strconv.ParseUint(tag[2:], 16, 64)
			}
			p.asked++
			if result = "null"; n >= p.first && n <= p.head {
				result = fmt.Sprintf(`{"number":"%#x","hash":"%s","parentHash":"%s","timestamp":"%#x","logsBloom":"0x"%s}`,
					n, evm.Hash{1}, evm.Hash{2}, 1_800_000_000+2*n, p.fee(n))
			}
		case "eth_gasPrice", "eth_maxPriorityFeePerGas":
			result = `"0x64"`
		}
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, q.ID, result)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body json.RawMessage
		if json.NewDecoder(r.Body).Decode(&body) != nil {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		var one request
		if json.Unmarshal(body, &one) == nil {
			fmt.Fprint(w, answer(one))
			return
		}
		var many []request
		json.Unmarshal(body, &many)
		if len(many) > samplesPerRequest {
			http.Error(w, "batch too large", http.StatusRequestEntityTooLarge)
			return
		}
		texts := make([]string, len(many))
		for i, q := range many {
			texts[i] = answer(q)
		}
		fmt.Fprintf(w, "[%s]", strings.Join(texts, ","))
	}))
	t.Cleanup(server.Close)
	client, err := Dial(t.Context(), server.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// climbing is a base fee that grows with the block's number.
func climbing(n uint64) string { return fmt.Sprintf(`,"baseFeePerGas":"%#x"`, n) }

const day = 24 * time.Hour

func TestTheRangeOfTheLastDays(t *testing.T) {
	t.Parallel()
	const week = 7 * 86400 / 2 // blocks
	for name, c := range map[string]struct {
		past    past
		from    uint64 // first block that is looked at
		samples int
	}{
		"a long past":                    {past{head: 10_000_000, fee: climbing}, 10_000_000 - week, 57},
		"a chain that is three days old": {past{head: 3 * 86400 / 2, fee: climbing}, 0, 57},
		"a chain of three blocks":        {past{head: 2, fee: climbing}, 0, 3},
		"a node that keeps two days":     {past{head: 10_000_000, first: 10_000_000 - 86_400, fee: climbing}, 10_000_000 - 86_400, 17},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := c.past.client(t).GasRange(t.Context(), 7*day, 57)
			want := GasRange{LowWei: c.from, HighWei: c.past.head, From: 1_800_000_000 + 2*c.from, Until: 1_800_000_000 + 2*c.past.head, Samples: c.samples}
			if err != nil || got != want {
				t.Errorf("%+v, %v, want %+v", got, err, want)
			}
		})
	}
}

func TestARangeThatIsNotKnown(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]*past{
		"a node that keeps its newest block": {head: 10_000, first: 10_000, fee: climbing},
		"a chain of one block":               {head: 0, fee: climbing},
		"a chain without base fees":          {head: 10_000, fee: func(uint64) string { return "" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := p.client(t).GasRange(t.Context(), 7*day, 57); !errors.Is(err, ErrNotFound) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestAPriceWithoutBaseFees(t *testing.T) {
	t.Parallel()
	p := &past{head: 10, fee: func(uint64) string { return "" }}
	if got, err := p.client(t).GasPrice(t.Context()); err != nil || got != (GasPrice{TipWei: 100}) {
		t.Errorf("%+v, %v", got, err)
	}
	p = &past{head: 10, fee: climbing}
	if got, err := p.client(t).GasPrice(t.Context()); err != nil || got != (GasPrice{BaseWei: 10, TipWei: 100}) || got.Wei() != 110 {
		t.Errorf("%+v, %v", got, err)
	}
	if got := (GasPrice{BaseWei: math.MaxUint64, TipWei: 1}).Wei(); got != math.MaxUint64 {
		t.Errorf("a price beyond counting is %d", got)
	}
}

// A node that tells nonsense about its past must neither stop us nor make us ask without end.
func TestSamplesAreFewAndConsistent(t *testing.T) {
	t.Parallel()
	huge := &past{head: math.MaxUint64, fee: func(uint64) string { return `,"baseFeePerGas":"0x1"` }}
	if got, err := huge.client(t).GasRange(t.Context(), 7*day, 57); err == nil && got.Samples > 57 || huge.asked > 60 {
		t.Errorf("%+v, %v after %d blocks", got, err, huge.asked)
	}
	always := fmt.Sprintf(`"result":{"number":"0x5","hash":"%s","parentHash":"%s","timestamp":"0x1","baseFeePerGas":"0x7","logsBloom":"0x"}`, evm.Hash{1}, evm.Hash{2})
	if got, err := fakeNode(t, map[string]string{"eth_getBlockByNumber": always}).GasRange(t.Context(), 7*day, 57); !errors.Is(err, ErrInconsistent) {
		t.Errorf("one block for all gave %+v, %v", got, err)
	}
	for _, c := range []struct {
		first, last uint64
		samples     int
		want        []uint64
	}{
		{0, 0, 5, []uint64{0}}, {7, 9, 5, []uint64{7, 8, 9}}, {0, 10, 3, []uint64{0, 5, 10}}, {0, 10, 0, []uint64{0, 10}}, {0, 7, 4, []uint64{0, 2, 4, 7}},
	} {
		if got := spread(c.first, c.last, c.samples); !slices.Equal(got, c.want) {
			t.Errorf("%+v gives %v", c, got)
		}
	}
}
