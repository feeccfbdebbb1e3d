package devchain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rpc"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/network"
)

// ErrNotDevelopment says that a node is none that may be written to.
var ErrNotDevelopment = errors.New("not a development node")

// Outcome says what [Onto] did at an address.
type Outcome string

const (
	Put   Outcome = "put"   // the contract was put there, with balances if it is money
	There Outcome = "there" // it was there already; nothing was touched
	Kept  Outcome = "kept"  // other code with the interface that public chains have there was left alone
)

// Placement is one contract that [Onto] took care of.
type Placement struct {
	Address evm.Address `json:"address"`
	Name    string      `json:"name"` // of the contract, or a token's symbol
	Outcome Outcome     `json:"outcome"`
}

// Onto puts on a running anvil what the embedded chain carries from its beginning, and returns the node's chain id.
// Repeating it changes nothing: balances start anew only where the code was not there. Contracts that public chains have
// as well are left as they are, so that a fork keeps its own; a token of tokens is replaced.
//
// tokens says for which tokens of the chain test money stands in, such as [Registered]; its error ends the call before
// anything is written, and nil means none.
//
// The node must answer on loopback, know anvil's methods, and not have the id of a network where money is real: what is
// signed for that id is good there too. Otherwise the error is [ErrNotDevelopment].
func Onto(ctx context.Context, nodeURL string, tokens func(chainID uint64) ([]network.Token, error)) (chainID uint64, done []Placement, err error) {
	if err := onLoopback(nodeURL); err != nil {
		return 0, nil, err
	}
	client, err := rpc.DialContext(ctx, nodeURL)
	if err != nil {
		return 0, nil, fmt.Errorf("reach %s: %w", nodeURL, err)
	}
	defer client.Close()
	var id hexutil.Uint64
	if err := client.CallContext(ctx, &id, "eth_chainId"); err != nil {
		return 0, nil, fmt.Errorf("ask %s for its chain id: %w", nodeURL, err)
	}
	chainID = uint64(id)
	if c, ok := network.ByID(chainID); ok && !c.Test {
		return chainID, nil, fmt.Errorf("%w: money on %s is real, and what is signed for its id is good there too; give the node another id", ErrNotDevelopment, c)
	}
	var info any
	if err := client.CallContext(ctx, &info, "anvil_nodeInfo"); err != nil {
		return chainID, nil, fmt.Errorf("%w: %s does not know anvil's methods: %w", ErrNotDevelopment, nodeURL, err)
	}
	var stands []network.Token
	if tokens != nil {
		if stands, err = tokens(chainID); err != nil {
			return chainID, nil, err
		}
	}
	for _, p := range everything(stands) {
		outcome, err := p.onto(ctx, client)
		if err != nil {
			return chainID, done, fmt.Errorf("put %s at %s: %w", p.name, p.address, err)
		}
		done = append(done, Placement{p.address, p.name, outcome})
	}
	return chainID, done, nil
}

func (p placed) onto(ctx context.Context, client *rpc.Client) (Outcome, error) {
	code, err := p.codeOn(ctx, client)
	switch {
	case err != nil:
		return "", err
	case bytes.Equal(code, p.code):
		return There, nil
	case len(code) > 0 && p.public:
		return Kept, nil
	}
	// The code comes last: it says that everything before it is done.
	batch := make([]rpc.BatchElem, 0, len(p.storage))
	for _, slot := range slices.SortedFunc(maps.Keys(p.storage), func(a, b evm.Hash) int { return bytes.Compare(a[:], b[:]) }) {
		batch = append(batch, rpc.BatchElem{Method: "anvil_setStorageAt", Args: []any{p.address, slot, p.storage[slot]}, Result: new(any)})
	}
	if len(batch) > 0 {
		if err := client.BatchCallContext(ctx, batch); err != nil {
			return "", err
		}
	}
	for _, b := range batch {
		if b.Error != nil {
			return "", fmt.Errorf("%s: %w", b.Method, b.Error)
		}
	}
	if err := client.CallContext(ctx, nil, "anvil_setCode", p.address, hexutil.Bytes(p.code)); err != nil {
		return "", fmt.Errorf("anvil_setCode: %w", err)
	}
	if code, err = p.codeOn(ctx, client); err != nil {
		return "", err
	}
	if !bytes.Equal(code, p.code) {
		return "", errors.New("the node took the code and has other code there")
	}
	return Put, nil
}

func (p placed) codeOn(ctx context.Context, client *rpc.Client) (code hexutil.Bytes, err error) {
	err = client.CallContext(ctx, &code, "eth_getCode", p.address, "latest")
	return code, err
}

func onLoopback(nodeURL string) error {
	u, err := url.Parse(nodeURL)
	if err != nil {
		return err
	}
	host := u.Hostname()
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("%w: %s is not on loopback", ErrNotDevelopment, nodeURL)
	}
	return nil
}
