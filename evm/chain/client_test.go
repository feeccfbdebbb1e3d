package chain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/farthing402/farthing/evm"
)

// fakeNode answers by method with raw JSON, or with whatever write does.
func fakeNode(t *testing.T, answers map[string]string) *Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body json.RawMessage
		if json.NewDecoder(r.Body).Decode(&body) != nil {
			return
		}
		type request struct {
			ID     json.RawMessage
			Method string
		}
		answer := func(q request) string {
			result, ok := answers[q.Method]
			if !ok {
				result = `"result":"0x7a69"`
			}
			return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,%s}`, q.ID, result)
		}
		w.Header().Set("Content-Type", "application/json")
		if bytes.HasPrefix(bytes.TrimSpace(body), []byte("[")) {
			var batch []request
			json.Unmarshal(body, &batch)
			texts := make([]string, len(batch))
			for i, q := range batch {
				texts[i] = answer(q)
			}
			fmt.Fprintf(w, "[%s]", strings.Join(texts, ","))
			return
		}
		var q request
		json.Unmarshal(body, &q)
		fmt.Fprint(w, answer(q))
	}))
	t.Cleanup(server.Close)
	client, err := Dial(t.Context(), server.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func TestDialRefusesWhatIsNoNode(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "ftp://localhost", "ws://localhost:1", "http://", "::", "http://127.0.0.1:1"} {
		if _, err := Dial(t.Context(), url); err == nil {
			t.Errorf("dialled %q", url)
		}
	}
	client := fakeNode(t, nil)
	if err := client.RequireChain(t.Context(), 1); !errors.Is(err, ErrChainID) {
		t.Errorf("another chain gave %v", err)
	}
	if err := client.RequireChain(t.Context(), 31337); err != nil || client.ChainID() != 31337 {
		t.Errorf("the same chain gave %v", err)
	}
}

func TestAnAnswerHasALimit(t *testing.T) {
	t.Parallel()
	client := fakeNode(t, map[string]string{"eth_getCode": `"result":"0x` + strings.Repeat("00", answerBytesMax/2+1) + `"`})
	if _, err := client.Code(t.Context(), evm.Address{1}); !errors.Is(err, errAnswerTooLarge) {
		t.Errorf("a huge answer gave %v", err)
	}
}

func TestASilentNodeDoesNotHoldUs(t *testing.T) {
	t.Parallel()
	silent := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-silent }))
	t.Cleanup(func() { close(silent); server.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, server.URL); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a silent node gave %v", err)
	}
}

func TestARedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
	defer target.Close()
	server := httptest.NewServer(http.RedirectHandler(target.URL, http.StatusTemporaryRedirect))
	defer server.Close()
	if _, err := Dial(t.Context(), server.URL); err == nil {
		t.Error("a redirect passed for an answer")
	}
}

func TestInconsistentAnswersAreRefused(t *testing.T) {
	t.Parallel()
	hash := func(b string) string { return "0x" + strings.Repeat(b, 32) }
	block := fmt.Sprintf(`"result":{"number":"0x5","hash":"%s","parentHash":"%s","timestamp":"0x1","baseFeePerGas":"0x7","logsBloom":"0x"}`, hash("05"), hash("04"))
	log := func(blockHash, address, index string) string {
		return fmt.Sprintf(`{"address":"%s","topics":[],"data":"0x","blockNumber":"0x5","blockHash":"%s","transactionHash":"%s","logIndex":"%s","removed":false}`,
			address, blockHash, hash("0a"), index)
	}
	mine := evm.Address{0xaa}
	five := evm.BlockRef{Number: 5, Hash: evm.MustHash(hash("05"))}
	for name, logs := range map[string]string{
		"a log of another block":   log(hash("06"), mine.String(), "0x0"),
		"a log of nobody we asked": log(hash("05"), evm.Address{0xbb}.String(), "0x0"),
		"a log twice":              log(hash("05"), mine.String(), "0x0") + "," + log(hash("05"), mine.String(), "0x0"),
		"logs out of order":        log(hash("05"), mine.String(), "0x1") + "," + log(hash("05"), mine.String(), "0x0"),
		"a removed log":            strings.Replace(log(hash("05"), mine.String(), "0x0"), "false", "true", 1),
	} {
		client := fakeNode(t, map[string]string{"eth_getLogs": `"result":[` + logs + `]`})
		if got, err := client.logsOf(t.Context(), five, []evm.Address{mine}); !errors.Is(err, ErrInconsistent) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	client := fakeNode(t, map[string]string{"eth_getBlockByNumber": block, "eth_getLogs": `"result":[` + log(hash("05"), mine.String(), "0x3") + `]`})
	if logs, err := client.logsOf(t.Context(), five, []evm.Address{mine}); err != nil || len(logs) != 1 || logs[0].Index != 3 {
		t.Errorf("a proper log: %v, %v", logs, err)
	}
	if _, err := client.Block(t.Context(), 6); !errors.Is(err, ErrInconsistent) {
		t.Errorf("block 5 for block 6 gave %v", err)
	}
	if _, err := client.headers(t.Context(), 5, 6); !errors.Is(err, ErrInconsistent) {
		t.Errorf("block 5 twice gave %v", err)
	}
	if headers, err := client.headers(t.Context(), 5, 5); err != nil || headers[0].ref() != (evm.BlockRef{Number: 5, Hash: five.Hash, Parent: evm.MustHash(hash("04")), Time: 1}) {
		t.Errorf("a proper header: %v, %v", headers, err)
	}
	client = fakeNode(t, map[string]string{"eth_getBlockByNumber": `"result":null`})
	if _, err := client.Block(t.Context(), 6); !errors.Is(err, ErrNotFound) {
		t.Errorf("a missing block gave %v", err)
	}
	client = fakeNode(t, map[string]string{"eth_getTransactionReceipt": `"result":{"transactionHash":"` + hash("01") + `","blockNumber":"0x1","status":"0x1"}`})
	if _, err := client.receipt(t.Context(), evm.Hash{2}); !errors.Is(err, ErrInconsistent) {
		t.Errorf("a receipt of another transaction gave %v", err)
	}
}

func TestNodeWords(t *testing.T) {
	t.Parallel()
	for words, want := range map[string]error{
		"already known": errKnown,
		"nonce too low: next nonce 5, tx nonce 4":             errNonceSpent,
		"replacement transaction underpriced":                 errUnderpriced,
		"intrinsic gas too low: gas 21000, minimum needed 1":  errInvalid,
		"gas required exceeds allowance (16777216)":           errTooMuchGas,
		"transaction gas limit too high (cap: 1, tx: 2)":      errInvalid,
		"execution reverted":                                  &RevertError{},
		"out of gas":                                          &RevertError{},
		"EVM error: OutOfGas":                                 &RevertError{},
		"EVM error InvalidFEOpcode":                           &RevertError{},
		"invalid opcode: INVALID":                             &RevertError{},
		"stack underflow (0 <=> 2)":                           &RevertError{},
		"insufficient funds for gas * price + value: have 0 ": nil,
	} {
		client := fakeNode(t, map[string]string{"eth_sendRawTransaction": `"error":{"code":-32000,"message":"` + words + `"}`})
		err := client.broadcast(t.Context(), []byte{1})
		var refused *RevertError
		switch _, reverts := want.(*RevertError); {
		case err == nil:
			t.Errorf("%q is no error", words)
		case reverts:
			if !errors.As(err, &refused) {
				t.Errorf("%q is %v", words, err)
			}
		case want == nil:
			if !strings.Contains(err.Error(), words) {
				t.Errorf("%q is shown as %v", words, err)
			}
		case !errors.Is(err, want):
			t.Errorf("%q is %v, want %v", words, err, want)
		}
	}
	data := `"error":{"code":3,"message":"execution reverted","data":"` + vaultABI.Errors["InsufficientAvailable"].ID.Hex()[:10] + `"}`
	client := fakeNode(t, map[string]string{"eth_call": data})
	var refused *RevertError
	if _, err := client.Read(t.Context(), evm.Address{}, evm.Address{1}, nil); !errors.As(err, &refused) || refused.Reason != "InsufficientAvailable()" {
		t.Errorf("revert data gave %v", err)
	}
}

// Where a block comes only with a transaction, waiting for one on top of another would never end.
func TestNodesThatMakeBlocksOnDemand(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]uint64{
		`"result":true`:  0,
		`"result":false`: 5, // anvil --block-time
		`"error":{"code":-32601,"message":"the method does not exist"}`: 5,
		`"result":"0x1"`: 5,
	} {
		if got := fakeNode(t, map[string]string{"anvil_getAutomine": answer}).Depth(5); got != want {
			t.Errorf("%s: %d blocks on top, want %d", answer, got, want)
		}
	}
}
