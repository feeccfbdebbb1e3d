package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
)

// rollupNode answers as a node of Base would whose base fee swings between 0.002 and 0.08 gwei, with 0.001 of tip, and
// whose oracle asks 10^9 wei and 10^7 for each byte of a transaction. Without past it has only its newest block.
func rollupNode(t *testing.T, oracle, past bool) string {
	t.Helper()
	const head = 30_000_000
	type request struct {
		ID     json.RawMessage
		Method string
		Params []json.RawMessage
	}
	answer := func(q request) string {
		param := func(i int, to any) {
			if i < len(q.Params) {
				json.Unmarshal(q.Params[i], to)
			}
		}
		result := `"0x"`
		switch q.Method {
		case "eth_chainId":
			result = `"0x2105"`
		case "eth_maxPriorityFeePerGas":
			result = `"0xf4240"` // 0.001 gwei
		case "eth_getBlockByNumber":
			var tag string
			n := uint64(head)
			if param(0, &tag); tag != "latest" {
				n, _ = strconv.ParseUint(strings.TrimPrefix(tag, "0x"), 16, 64)
			}
			fee := 4_000_000
			switch {
			case n == head-1000:
			case n < head-200_000:
				fee = 79_000_000
			case n < head-100_000:
				fee = 1_000_000
			}
			if result = "null"; past || n == head {
				result = fmt.Sprintf(`{"number":"%#x","hash":"%s","parentHash":"%s","timestamp":"%#x","logsBloom":"0x","baseFeePerGas":"%#x"}`,
					n, evm.Hash{1}, evm.Hash{2}, 1_800_000_000+2*n, fee)
			}
		case "eth_getCode":
			var at evm.Address
			param(0, &at)
			if oracle && at == evm.MustAddress("0x420000000000000000000000000000000000000F") {
				result = `"0x60"`
			}
		case "eth_call":
			var call struct{ Input string }
			param(0, &call)
			length, _ := new(big.Int).SetString(call.Input[2+8+64:2+8+128], 16)
			wei := new(big.Int).Add(big.NewInt(1_000_000_000), new(big.Int).Mul(length, big.NewInt(10_000_000)))
			result = fmt.Sprintf(`"0x%064x"`, wei)
		}
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, q.ID, result)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body json.RawMessage
		var one request
		var many []request
		if json.NewDecoder(r.Body).Decode(&body) != nil {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if json.Unmarshal(body, &one) == nil {
			fmt.Fprint(w, answer(one))
			return
		}
		json.Unmarshal(body, &many)
		texts := make([]string, len(many))
		for i, q := range many {
			texts[i] = answer(q)
		}
		fmt.Fprintf(w, "[%s]", strings.Join(texts, ","))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// command runs a verb at a terminal.
func command(t *testing.T, args ...string) (out, said string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	home := t.TempDir()
	p := &program{In: strings.NewReader(""), Out: &o, Err: &e, Now: time.Now, Terminal: true, Env: func(name string) (string, bool) {
		if name == "FARTHING_HOME" {
			return home, true
		}
		return os.LookupEnv(name)
	}}
	code = p.Main(t.Context(), args)
	return o.String(), e.String(), code
}

func TestPriceAsksARollup(t *testing.T) {
	t.Parallel()
	out, said, code := command(t, "price", "$0.0005", "--cost", "$0.00012", "--rpc-url", rollupNode(t, true, true), "--native-price", "$3000")
	if code != 0 || said != "" {
		t.Fatalf("exit %d, %s", code, said)
	}
	for _, want := range []string{
		"network base, 0.005 gwei now (0.002–0.08 in 7 days), ETH $3,000 given, data priced by GasPriceOracle\n",
		// 85,000 gas at 0.005 gwei are 425·10^9 wei, and 345 bytes of an unsigned transaction 10^9 + 345·10^7: at $3,000 an
		// ether 0.00128835 dollars
		"exact, each call                       $0.0013 ",
		"At 0.08 gwei the bundle still keeps ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
	out, _, _ = command(t, "price", "$0.0005", "--rpc-url", rollupNode(t, true, true), "--json")
	first, _, _ := strings.Cut(out, "\n")
	var got struct {
		DataFee string `json:"data_fee_source"`
		Lately  struct {
			Low     string `json:"low_wei"`
			High    string `json:"high_wei"`
			Samples int    `json:"samples"`
		} `json:"gas_price_lately"`
	}
	if err := json.Unmarshal([]byte(first), &got); err != nil || got.DataFee != "GasPriceOracle" || got.Lately.Low != "2000000" || got.Lately.High != "80000000" || got.Lately.Samples != 57 {
		t.Errorf("%+v, %v", got, err)
	}
	if !strings.Contains(out, `"fee_usd":"0.00128835"`) {
		t.Errorf("exact costs something else:\n%s", out)
	}
}

func TestPriceSaysWhatANodeDoesNotKnow(t *testing.T) {
	t.Parallel()
	out, said, code := command(t, "price", "$0.0005", "--rpc-url", rollupNode(t, false, false))
	if code != 0 || !strings.Contains(out, "network base, 0.005 gwei now (the node does not tell what it cost before), ETH $3,000 as of ") ||
		strings.Contains(out, "data priced") || !strings.Contains(out, ", ten times as much, the bundle still keeps ") {
		t.Errorf("exit %d, %s\n%s", code, said, out)
	}
}
