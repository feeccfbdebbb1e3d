package network

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
	"pgregory.net/rapid"
)

func TestLookupByAnyName(t *testing.T) {
	t.Parallel()
	for name, id := range map[string]uint64{
		"base": 8453, "Base": 8453, "eip155:8453": 8453, "EIP155:8453": 8453, "8453": 8453,
		"base-sepolia": 84532, "arbitrum": 42161, "arbitrum-one": 42161, "arbitrum-sepolia": 421614, "optimism": 10, "optimism-sepolia": 11155420,
		"ethereum": 1, "mainnet": 1, "sepolia": 11155111, "ethereum-sepolia": 11155111, "polygon": 137, "polygon-amoy": 80002,
		"dev": 31337, "eip155:31337": 31337, "avalanche-fuji": 43113, "skale-base-sepolia": 324705682,
	} {
		c, err := Lookup(name)
		if err != nil || c.ID != id {
			t.Errorf("%s is %s (%v), want %d", name, c, err, id)
		}
		if by, ok := ByID(id); !ok || by.Name != c.Name {
			t.Errorf("%d is %s, want %s", id, by, c)
		}
	}
}

func TestUnknownNamesSuggest(t *testing.T) {
	t.Parallel()
	base, err := Lookup("base")
	if err != nil {
		t.Fatal(err)
	}
	celo, err := Lookup("celo")
	if err != nil {
		t.Fatal(err)
	}
	iotex, err := Lookup("iotex")
	if err != nil {
		t.Fatal(err)
	}
	of := func(c Chain, what string) error { _, err := c.Token(what); return err }
	lookup := func(name string) error { _, err := Lookup(name); return err }
	const others = "; add the token's address to networks.yaml to use another"
	for _, tt := range []struct {
		err           error
		message, hint string
	}{
		{of(base, "USDT"), "no USDT on base (eip155:8453)", "USDC is known there" + others},
		{of(base, "0x0000000000000000000000000000000000000001"), "no 0x0000000000000000000000000000000000000001 on base (eip155:8453)", "USDC is known there" + others},
		{of(celo, "USDD"), "no USDD on celo (eip155:42220)", "did you mean USDC? USDC, USDT, USAT are known there" + others},
		{of(celo, "EURC"), "no EURC on celo (eip155:42220)", "USDC, USDT, USAT are known there" + others},
		{of(iotex, "USDC"), "no USDC on iotex (eip155:4689)", "no token is known there; add its address to networks.yaml"},
		{lookup("bsae"), `no network "bsae"`, "did you mean base? others can be added in networks.yaml"},
		{lookup("arbitrun-sepolia"), `no network "arbitrun-sepolia"`, "did you mean arbitrum-sepolia? others can be added in networks.yaml"},
		{lookup("zzz"), `no network "zzz"`, "known: dev, base, base-sepolia, arbitrum, arbitrum-sepolia, optimism, optimism-sepolia, ethereum, sepolia, polygon, and others; add yours to networks.yaml"},
		{lookup("08453"), `no network "08453"`, "known: dev, base, base-sepolia, arbitrum, arbitrum-sepolia, optimism, optimism-sepolia, ethereum, sepolia, polygon, and others; add yours to networks.yaml"},
		{lookup(""), `no network ""`, "known: dev, base, base-sepolia, arbitrum, arbitrum-sepolia, optimism, optimism-sepolia, ethereum, sepolia, polygon, and others; add yours to networks.yaml"},
	} {
		var e *UnknownError
		if !errors.As(tt.err, &e) || e.Error() != tt.message || e.Hint() != tt.hint {
			t.Errorf("%v, hint %q; want %s, %q", tt.err, e.Hint(), tt.message, tt.hint)
		}
	}
	if _, err := (Registry{}).Lookup("x"); err == nil || err.(*UnknownError).Hint() != "add it to networks.yaml" {
		t.Errorf("empty registry: %v", err)
	}
}

func TestTokensAsTheChainsHaveThem(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ chain, symbol, address, name, version string }{
		{"dev", "USDC", "0xFA12000000000000000000000000000000000001", "Test Dollar", "2"},
		{"base", "usdc", "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "USD Coin", "2"},
		{"base-sepolia", "USDC", "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "USDC", "2"},
		{"flare", "USDT0", "0xe7cd86e13AC4309349F30B3435a9d337750fC82D", "USD₮0", "1"},
	} {
		c, err := Lookup(tt.chain)
		if err != nil {
			t.Fatal(err)
		}
		bySymbol, err := c.Token(tt.symbol)
		if err != nil {
			t.Fatal(err)
		}
		byAddress, err := c.Token(strings.ToLower(tt.address))
		if err != nil || bySymbol != byAddress {
			t.Errorf("%s on %s: by symbol %v, by address %v (%v)", tt.symbol, c, bySymbol, byAddress, err)
		}
		d := bySymbol.Domain(c.ID)
		if d.Name != tt.name || d.Version != tt.version || d.ChainID != c.ID || *d.VerifyingContract != evm.MustAddress(tt.address) {
			t.Errorf("%s on %s: domain %+v", tt.symbol, c, d)
		}
		if a := bySymbol.Asset(); a.Symbol != bySymbol.Symbol || a.Decimals != bySymbol.Decimals || !a.Dollar {
			t.Errorf("%s on %s: asset %+v", tt.symbol, c, a)
		}
		if ds := c.Dollars(); len(ds) == 0 || ds[0].Address != bySymbol.Address {
			t.Errorf("dollars of %s: %v", c, ds)
		}
	}
	ethereum, err := Lookup("ethereum")
	if err != nil {
		t.Fatal(err)
	}
	if usdt, err := ethereum.Token("USDT"); err != nil || usdt.EIP3009 || usdt.EIP2612 {
		t.Errorf("USDT on ethereum has neither method: %+v (%v)", usdt, err)
	}
}

// What ships must hold to its own rules, and its addresses to their checksums.
func TestWhatShipsIsSound(t *testing.T) {
	t.Parallel()
	var r Registry
	for _, c := range shipped {
		if err := r.Add(c); err != nil {
			t.Error(err)
		}
		if c.Depth == 0 {
			t.Errorf("%s has no depth", c)
		}
		if c.V1First && c.V1Name == "" {
			t.Errorf("%s: the first packages know no name of it", c)
		}
		for _, token := range c.Tokens {
			if token.Dollar && token.Decimals != 6 && token.Decimals != 18 {
				t.Errorf("%s on %s: a dollar of %d decimals", token.Symbol, c, token.Decimals)
			}
		}
	}
	if got := len(Known().Chains()); got != len(shipped) {
		t.Errorf("%d chains are known, %d ship", got, len(shipped))
	}
}

func TestVersion1Names(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, caip2 string
		back        string // what the CAIP-2 name is called in version 1; empty: it has no such name
	}{
		{"base-sepolia", "eip155:84532", "base-sepolia"},
		{"base", "eip155:8453", "base"},
		{"ethereum-sepolia", "eip155:11155111", "sepolia"},
		{"arbitrum", "eip155:42161", ""},
		{"dev", "eip155:31337", ""},
		{"solana", "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "solana"},
		{"solana-devnet", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1", "solana-devnet"},
	} {
		caip2, ok := FromV1(tt.name)
		if !ok || caip2 != tt.caip2 {
			t.Errorf("%s is %s (%v), want %s", tt.name, caip2, ok, tt.caip2)
		}
		if back, ok := ToV1(tt.caip2); ok != (tt.back != "") || back != tt.back {
			t.Errorf("%s is called %q (%v), want %q", tt.caip2, back, ok, tt.back)
		}
	}
	if name, ok := FromV1("nowhere"); ok {
		t.Errorf("nowhere is %s", name)
	}
	if name, ok := ToV1("eip155:999999999"); ok {
		t.Errorf("an unknown chain is called %s", name)
	}
}

func decimals(n uint8) *uint8 { return &n }

func TestEntriesThatPeopleWrite(t *testing.T) {
	t.Parallel()
	r := Known()
	if err := r.AddEntries([]Entry{
		{Network: "base", Tokens: []TokenEntry{{Symbol: "EURC", Address: "0x60a3e35cc302bfa44cb288bc5a4f316fdb1adb42", Decimals: decimals(6), Name: "EURC", Version: "2", EIP3009: true}}},
		{Network: "home", ID: 424242, Native: "ETH", Test: true, Depth: 2, BlockTime: time.Second, Tokens: []TokenEntry{
			{Symbol: "HUSD", Address: "0xFA12000000000000000000000000000000000001", Decimals: decimals(18), Dollar: true},
		}},
		{Network: "home", Depth: 7},
	}); err != nil {
		t.Fatal(err)
	}
	base, err := r.Lookup("base")
	if err != nil {
		t.Fatal(err)
	}
	if eurc, err := base.Token("eurc"); err != nil || eurc.Dollar || !eurc.EIP3009 {
		t.Errorf("EURC: %+v (%v)", eurc, err)
	}
	home, err := r.Lookup("eip155:424242")
	if err != nil || home.Name != "home" || len(home.Dollars()) != 1 || home.Depth != 7 || home.BlockTime != time.Second {
		t.Errorf("home: %+v (%v)", home, err)
	}
	if shippedBase, _ := Lookup("base"); len(shippedBase.Tokens) != 1 {
		t.Error("the registry that ships changed with its copy")
	}
}

func TestEntriesThatCouldBeMistakenAreRefused(t *testing.T) {
	t.Parallel()
	const usdcOnBase = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
	const other = "0x60a3e35cc302bfa44cb288bc5a4f316fdb1adb42"
	token := func(symbol, address string) []TokenEntry {
		return []TokenEntry{{Symbol: symbol, Address: address, Decimals: decimals(6)}}
	}
	for _, tt := range []struct {
		name  string
		entry Entry
		want  string
	}{
		{"a symbol twice", Entry{Network: "base", Tokens: token("usdc", other)}, "is there already"},
		{"an address twice", Entry{Network: "base", Tokens: token("NEW", usdcOnBase)}, "is there already"},
		{"an address that is too short", Entry{Network: "base", Tokens: token("NEW", "0x1234")}, "wrong length"},
		{"a mistyped address", Entry{Network: "base", Tokens: token("NEW", "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02914")}, "mistyped"},
		{"the zero address", Entry{Network: "base", Tokens: token("NEW", "0x0000000000000000000000000000000000000000")}, "needs an address"},
		{"no symbol", Entry{Network: "base", Tokens: token("", other)}, "no symbol"},
		{"a dollar sign for a symbol", Entry{Network: "base", Tokens: token("$", other)}, "no symbol"},
		{"no decimals", Entry{Network: "base", Tokens: []TokenEntry{{Symbol: "NEW", Address: other}}}, "decimals are needed"},
		{"absurd decimals", Entry{Network: "base", Tokens: []TokenEntry{{Symbol: "NEW", Address: other, Decimals: decimals(77)}}}, "at most 36"},
		{"signatures without a domain", Entry{Network: "base", Tokens: []TokenEntry{{Symbol: "NEW", Address: other, Decimals: decimals(6), EIP3009: true}}}, "name and version"},
		{"another id for a known name", Entry{Network: "base", ID: 5, Depth: 1}, "is taken by base"},
		{"another name for a known id", Entry{Network: "myBase", ID: 8453}, "its id is that of base"},
		{"a known number for a name", Entry{Network: "1", ID: 77, Depth: 1}, "is taken by ethereum"},
		{"a number for a name", Entry{Network: "99", ID: 77, Depth: 1}, "is no name"},
		{"a CAIP-2 name for a name", Entry{Network: "eip155:99", ID: 77, Depth: 1}, "is no name"},
		{"no name", Entry{ID: 77, Depth: 1}, "is no name"},
		{"a new network without id", Entry{Network: "home", Depth: 1}, `no network "home", and a new one needs an id`},
		{"a new network without depth", Entry{Network: "home", ID: 77}, "needs a depth"},
		{"real money called test money", Entry{Network: "base", Test: true}, "money on base (eip155:8453) is real"},
		{"negative block time", Entry{Network: "base", BlockTime: -1}, "cannot take"},
	} {
		r := Known()
		err := r.AddEntries([]Entry{{Network: "good", ID: 12321, Depth: 1}, tt.entry})
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "network 2: ") {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if _, err := r.Lookup("good"); err == nil {
			t.Errorf("%s: half of the entries stayed", tt.name)
		}
	}
	if err := (&Registry{}).Add(Chain{Name: "x"}); err == nil {
		t.Error("a chain without id was added")
	}
	r := Known()
	if err := r.AddEntries([]Entry{{Network: "zero"}, {Network: "one"}}); err == nil || strings.Count(err.Error(), "needs an id") != 2 {
		t.Errorf("not every fault is named: %v", err)
	}
}

func TestACopyOfARegistryIsItsOwn(t *testing.T) {
	t.Parallel()
	r := Known()
	if err := r.Add(Chain{ID: 1001, Name: "first"}); err != nil {
		t.Fatal(err)
	}
	copied := r
	for _, err := range []error{
		copied.Add(Chain{ID: 1001, Depth: 9}), r.Add(Chain{ID: 1002, Name: "mine"}), copied.Add(Chain{ID: 1003, Name: "theirs"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Lookup("mine"); err != nil {
		t.Error(err)
	}
	if _, err := r.Lookup("theirs"); err == nil {
		t.Error("a chain went into another registry")
	}
	if c, _ := r.ByID(1001); c.Depth != 0 {
		t.Error("a depth changed in another registry")
	}
}

func TestNearestIsLevenshtein(t *testing.T) {
	t.Parallel()
	// The textbook recursion, to compare with.
	var slow func(a, b []rune) int
	slow = func(a, b []rune) int {
		if len(a) == 0 || len(b) == 0 {
			return len(a) + len(b)
		}
		change := slow(a[1:], b[1:])
		if a[0] != b[0] {
			change++
		}
		return min(change, slow(a[1:], b)+1, slow(a, b[1:])+1)
	}
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.SliceOfN(rapid.SampledFrom([]rune("ab₮")), 0, 6)
		a, b := word.Draw(t, "a"), word.Draw(t, "b")
		if got, want := distance(a, b, 100), slow(a, b); got != want {
			t.Fatalf("from %s to %s in %d steps, want %d", string(a), string(b), got, want)
		}
	})
	if got := Nearest("xy", []string{"ab", "cd"}); got != "" {
		t.Errorf("a word with no letter in common suggests %s", got)
	}
}

func FuzzLookup(f *testing.F) {
	for _, s := range []string{"base", "eip155:1", "", "\xff", "0x", "solana"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		c, err := Lookup(name)
		if err != nil {
			if e := err.(*UnknownError); e.Hint() == "" {
				t.Fatal("no hint")
			}
			return
		}
		if again, err := Lookup(c.CAIP2()); err != nil || again.ID != c.ID {
			t.Fatalf("%q is %s, which is %s", name, c, again)
		}
	})
}
