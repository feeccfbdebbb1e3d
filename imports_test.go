package farthing

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/farthing402/farthing/"

// listed is what `go list` says of a package.
type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func (l listed) name() string { return strings.TrimPrefix(l.ImportPath, module) }

// below says which of our packages each package may import directly; a name ending in /... stands for a whole folder.
// It is the picture of docs/ARCHITECTURE.md as a table: arrows go from a line's package to what stands right of it.
var below = map[string][]string{
	"money":                   {},
	"network":                 {"evm", "money"},
	"evm":                     {},
	"evm/keystore":            {"evm"},
	"x402":                    {"evm", "internal/jsonobject", "money", "network"},
	"contracts":               {},
	"internal/jsonobject":     {},
	"contracts/contractstest": {"contracts"},
	"evm/chain":               {"contracts", "evm", "money"},
	"evm/devchain":            {"contracts", "evm", "money", "network"},
	"guarantee":               {"evm", "internal/jsonobject", "money", "network", "x402"},
	"exact":                   {"evm", "internal/jsonobject", "money", "network", "x402"},
	"purchase":                {"evm", "money", "network", "x402"},
	"signals":                 {"money", "network"},
	"purchase/purchasetest":   {"evm", "money", "purchase"},
	"ledger":                  {"evm", "money"},
	"clearing":                {"evm", "guarantee", "ledger", "money"},
	"clearing/booktest":       {"clearing", "evm", "guarantee", "ledger", "money"},
	"facilitator":             {"api/client", "evm", "exact", "facilitator/desk", "guarantee", "money", "network", "x402"},
	"facilitator/desk":        {"evm", "money", "x402"},
	"webhook":                 {"evm", "money"},
	"webhook/courier":         {"clearing", "evm", "guarantee", "money", "webhook", "x402"},
	"api/client":              {"evm", "guarantee", "internal/jsonobject", "money", "network", "webhook", "x402"},
	"api":                     {"clearing", "evm", "guarantee", "internal/jsonobject", "login", "money", "network", "webhook", "webhook/courier", "x402"},
	"login":                   {"evm", "x402"},
	"login/logintest":         {"evm", "login"},
	"store":                   {"clearing", "evm", "facilitator/desk", "guarantee", "ledger", "login", "money", "purchase", "webhook", "webhook/courier"},
	"internal/postgres":       {},
	"store/storetest":         {"internal/postgres"},
	"payer":                   {"api/client", "evm", "exact", "guarantee", "money", "network", "purchase", "x402"},
	"paywall":                 {"api/client", "evm", "exact", "guarantee", "money", "network", "purchase", "x402"},
	"interop":                 {},
	"internal/sim":            {"api", "api/client", "clearing", "contracts", "evm", "exact", "facilitator", "facilitator/desk", "guarantee", "ledger", "login", "money", "network", "payer", "paywall", "purchase", "store", "x402"},
	"paywall/paywalltest":     {"api", "api/client", "clearing", "evm", "exact", "guarantee", "internal/sim", "ledger", "login", "money", "network", "payer", "paywall", "purchase", "x402"},
}

// never says what a package and everything below it must not reach. Each rule has its reason.
var never = []struct {
	packages []string
	direct   bool // only the package's own import lines count
	reach    []string
	why      string
}{
	{[]string{"ledger", "clearing", "guarantee", "login", "purchase", "exact", "facilitator/desk", "signals"}, true, []string{"net/http", "database/sql", "os"},
		"rules about money run in a simulation: no socket, no SQL, no file"},
	{[]string{"payer", "paywall", "api/client"}, false, []string{module + "clearing", module + "facilitator", module + "store", module + "evm/chain", module + "evm/devchain",
		"github.com/ethereum/go-ethereum/node", "github.com/ethereum/go-ethereum/eth", "github.com/ethereum/go-ethereum/ethclient", "modernc.org/sqlite", "github.com/jackc/pgx/v5"},
		"a buyer or seller imports a light library"},
	{[]string{"webhook"}, false, []string{module + "clearing", module + "guarantee", module + "store"}, "who receives webhooks imports a light library"},
	{[]string{"store"}, false, []string{module + "evm/chain"}, "the outbox is an interface over plain types"},
	{[]string{"money"}, false, []string{"net/http", module + "evm"}, "amounts stand alone"},
}

func packages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "./...").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var l listed
		if err := dec.Decode(&l); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		all = append(all, l)
	}
}

// The arrows of the house point one way, and this is where that is written down.
func TestImportsPointOneWay(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		name := p.name()
		if p.ImportPath+"/" == module || name == "cmd/farthing" || strings.HasPrefix(name, "cmd/farthing/") {
			continue // the root holds text only; the command wires everything
		}
		allowed, ok := below[name]
		if !ok {
			t.Errorf("package %s has no line in the table: say what it may import", name)
			continue
		}
		for _, imp := range p.Imports {
			if ours, is := strings.CutPrefix(imp, module); is && !contains(allowed, ours) {
				t.Errorf("%s imports %s, which is not below it", name, ours)
			}
		}
	}
}

func TestNobodyReachesWhatIsNotTheirs(t *testing.T) {
	t.Parallel()
	all := packages(t)
	for _, rule := range never {
		for _, p := range all {
			if !contains(rule.packages, p.name()) {
				continue
			}
			reached := p.Deps
			if rule.direct {
				reached = p.Imports
			}
			for _, r := range reached {
				if contains(rule.reach, r) {
					t.Errorf("%s reaches %s, but %s", p.name(), strings.TrimPrefix(r, module), rule.why)
				}
			}
		}
	}
	for _, p := range all {
		for _, imp := range p.Imports {
			if (imp == "modernc.org/sqlite" || strings.HasPrefix(imp, "github.com/jackc/pgx")) && p.name() != "store" && p.name() != "internal/postgres" {
				t.Errorf("%s imports a SQL driver; only store does", p.name())
			}
			if strings.HasPrefix(imp, "github.com/ethereum/go-ethereum") && !mayUseGeth(p.name(), imp) {
				t.Errorf("%s imports %s; go-ethereum stays in evm/chain, evm/devchain and evm/keystore", p.name(), imp)
			}
		}
	}
}

// The wall clock is named where programs are wired, never where money is decided.
func TestRulesDoNotReadTheClock(t *testing.T) {
	t.Parallel()
	out, _ := exec.Command("grep", "-rnE", `time\.(Now|Since|Until|After|Tick|NewTimer|NewTicker|Sleep)\(`,
		"ledger", "clearing", "guarantee", "login", "purchase", "exact", "facilitator/desk", "signals", "--include=*.go").Output()
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "_test.go:") && !strings.Contains(line, "booktest/") && !strings.Contains(line, "purchasetest/") {
			t.Errorf("names the wall clock: %s", line)
		}
	}
}

// Flags, environment and configuration files are the command's, and what tests.
func TestOnlyTheCommandReadsTheEnvironment(t *testing.T) {
	t.Parallel()
	out, _ := exec.Command("grep", "-rnE", `os\.(Getenv|LookupEnv|Args|Environ)|flag\.(Parse|String|Int|Bool)\(`, ".", "--include=*.go").Output()
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "_test.go:") && !strings.HasPrefix(line, "./cmd/") && !strings.HasPrefix(line, "./store/storetest/") {
			t.Errorf("reads the environment or flags: %s", line)
		}
	}
}

func mayUseGeth(name, imp string) bool {
	switch name {
	case "evm/chain", "evm/devchain", "evm/keystore":
		return true
	case "evm":
		return imp == "github.com/ethereum/go-ethereum/crypto/secp256k1"
	}
	return strings.HasPrefix(name, "cmd/")
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}
