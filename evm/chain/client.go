package chain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rpc"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

const (
	// DefaultTimeout bounds one request to a node. Answers take milliseconds; a catch-up query may take seconds.
	DefaultTimeout = 20 * time.Second

	// connectionsKept is how many connections to a node are kept for the next requests: as many as a busy facilitator asks at
	// once. With Go's two, most requests would begin with a connection of their own.
	connectionsKept = 64

	// answerBytesMax bounds one answer: a hundred headers are 0.2 MB, and the logs of one block a few MB.
	answerBytesMax = 32 << 20
)

// Client reads from one node over HTTP. It is safe for concurrent use.
type Client struct {
	rpc      *rpc.Client
	chainID  uint64
	onDemand bool
	kept     *http.Transport // whose idle connections end with the client
}

// Dial connects to the node at an http or https URL and asks which chain it serves. Cancelling ctx later does not close
// the client.
func Dial(ctx context.Context, rawURL string) (*Client, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("node URL is not http or https") // the URL may hold a secret, so it is not repeated
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = connectionsKept
	client, err := rpc.DialOptions(ctx, rawURL, rpc.WithHTTPClient(&http.Client{
		Timeout:   DefaultTimeout,
		Transport: bounded{transport},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // a node has no reason to send us elsewhere
		},
	}))
	if err != nil {
		return nil, fmt.Errorf("dial node at %s: %w", u.Host, err)
	}
	c := &Client{rpc: client, kept: transport}
	var id hexutil.Uint64
	if err := c.ask(ctx, &id, "eth_chainId"); err != nil {
		c.Close()
		return nil, fmt.Errorf("dial node at %s: %w", u.Host, err)
	}
	c.chainID = uint64(id)
	if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
		// Development nodes (anvil, Hardhat) know this method; to any other it is an unknown one.
		_ = c.ask(ctx, &c.onDemand, "anvil_getAutomine")
	}
	return c, nil
}

// Depth returns how many blocks can be asked to lie on top of another: depth, or none where a development node on this
// machine makes a block for a transaction and no other. There nothing would ever come on top of the last one.
func (c *Client) Depth(depth uint64) uint64 {
	if c.onDemand {
		return 0
	}
	return depth
}

// Close frees the connections.
func (c *Client) Close() {
	c.rpc.Close()
	c.kept.CloseIdleConnections()
}

// ChainID returns the chain that the node served when it was dialled.
func (c *Client) ChainID() uint64 { return c.chainID }

// RequireChain fails with [ErrChainID] unless the node serves the chain, asking it again.
func (c *Client) RequireChain(ctx context.Context, want uint64) error {
	var id hexutil.Uint64
	if err := c.ask(ctx, &id, "eth_chainId"); err != nil {
		return err
	}
	if uint64(id) != want {
		return fmt.Errorf("chain %d: %w: %d", want, ErrChainID, uint64(id))
	}
	return nil
}

// Head returns the newest block.
func (c *Client) Head(ctx context.Context) (evm.BlockRef, error) {
	h, err := c.header(ctx, "latest")
	return h.ref(), err
}

// Block returns the canonical block with a number, or [ErrNotFound].
func (c *Client) Block(ctx context.Context, number uint64) (evm.BlockRef, error) {
	h, err := c.header(ctx, hexutil.EncodeUint64(number))
	if err == nil && uint64(h.Number) != number {
		err = fmt.Errorf("block %d: %w: it sent %d", number, ErrInconsistent, uint64(h.Number))
	}
	return h.ref(), err
}

// Balance returns an account's native coin at the newest block, in wei.
func (c *Client) Balance(ctx context.Context, account evm.Address) (money.Amount, error) {
	var balance hexutil.Big
	if err := c.ask(ctx, &balance, "eth_getBalance", account, "latest"); err != nil {
		return money.Amount{}, err
	}
	return money.AmountFromBytes(balance.ToInt().Bytes())
}

// Code returns an account's code at the newest block; empty for one that has none.
func (c *Client) Code(ctx context.Context, account evm.Address) ([]byte, error) {
	var code hexutil.Bytes
	err := c.ask(ctx, &code, "eth_getCode", account, "latest")
	return code, err
}

// Read calls a contract at the newest block without sending a transaction, and returns what it returned. A refusal is a
// [*RevertError].
func (c *Client) Read(ctx context.Context, from, to evm.Address, data []byte) ([]byte, error) {
	return c.Simulate(ctx, evm.Call{From: from, To: to, Data: data})
}

// Simulate runs a call at the newest block, with its gas limit if it has one, and returns what it returned. A refusal is a
// [*RevertError].
func (c *Client) Simulate(ctx context.Context, call evm.Call) ([]byte, error) {
	m := message{From: call.From, To: &call.To, Gas: hexutil.Uint64(call.GasLimit), Data: call.Data}
	if call.Value != [32]byte{} {
		m.Value = (*hexutil.Big)(new(big.Int).SetBytes(call.Value[:]))
	}
	var out hexutil.Bytes
	err := c.ask(ctx, &out, "eth_call", m, "latest")
	return out, err
}

// Nonce returns the number of transactions that an account has had mined up to the newest block.
func (c *Client) Nonce(ctx context.Context, account evm.Address) (uint64, error) {
	return c.nonceAt(ctx, account, "latest")
}

// header is the part of a block's header that we read. The hash is the node's: computing it would need every field that
// any network has added to its headers.
type header struct {
	Number  hexutil.Uint64 `json:"number"`
	Hash    evm.Hash       `json:"hash"`
	Parent  evm.Hash       `json:"parentHash"`
	Time    hexutil.Uint64 `json:"timestamp"`
	Gas     hexutil.Uint64 `json:"gasLimit"`
	BaseFee *hexutil.Big   `json:"baseFeePerGas"`
	Bloom   hexutil.Bytes  `json:"logsBloom"`
}

func (h header) ref() evm.BlockRef {
	return evm.BlockRef{Number: uint64(h.Number), Hash: h.Hash, Parent: h.Parent, Time: uint64(h.Time), GasLimit: uint64(h.Gas)}
}

func (c *Client) header(ctx context.Context, tag string) (header, error) {
	var h *header
	if err := c.ask(ctx, &h, "eth_getBlockByNumber", tag, false); err != nil {
		return header{}, err
	}
	if h == nil {
		return header{}, fmt.Errorf("block %s: %w", tag, ErrNotFound)
	}
	return *h, nil
}

// headers returns the canonical headers from first to last in one round trip, each following the one before.
func (c *Client) headers(ctx context.Context, first, last uint64) ([]header, error) {
	answers := make([]*header, last-first+1)
	batch := make([]rpc.BatchElem, len(answers))
	for i := range batch {
		batch[i] = rpc.BatchElem{
			Method: "eth_getBlockByNumber", Args: []any{hexutil.EncodeUint64(first + uint64(i)), false}, Result: &answers[i],
		}
	}
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	if err := c.rpc.BatchCallContext(ctx, batch); err != nil {
		return nil, nodeError("eth_getBlockByNumber", err)
	}
	headers := make([]header, len(answers))
	for i, h := range answers {
		number := first + uint64(i)
		switch {
		case batch[i].Error != nil:
			return nil, nodeError("eth_getBlockByNumber", batch[i].Error)
		case h == nil:
			return nil, fmt.Errorf("block %d: %w", number, ErrNotFound)
		case uint64(h.Number) != number, i > 0 && h.Parent != headers[i-1].Hash:
			return nil, fmt.Errorf("block %d: %w: it does not follow block %d", number, ErrInconsistent, number-1)
		}
		headers[i] = *h
	}
	return headers, nil
}

// logJSON is a log as nodes send it.
type logJSON struct {
	Address   evm.Address    `json:"address"`
	Topics    []evm.Hash     `json:"topics"`
	Data      hexutil.Bytes  `json:"data"`
	Block     hexutil.Uint64 `json:"blockNumber"`
	BlockHash evm.Hash       `json:"blockHash"`
	TxHash    evm.Hash       `json:"transactionHash"`
	Index     hexutil.Uint   `json:"logIndex"`
	Removed   bool           `json:"removed"`
}

// logsOf returns the logs of the block with a hash that the addresses emitted, in order.
func (c *Client) logsOf(ctx context.Context, block evm.BlockRef, addresses []evm.Address) ([]evm.Log, error) {
	var answer []logJSON
	if err := c.ask(ctx, &answer, "eth_getLogs", map[string]any{"blockHash": block.Hash, "address": addresses}); err != nil {
		return nil, err
	}
	logs := make([]evm.Log, len(answer))
	for i, l := range answer {
		if l.Removed || l.BlockHash != block.Hash || uint64(l.Block) != block.Number || !slices.Contains(addresses, l.Address) ||
			i > 0 && uint(l.Index) <= logs[i-1].Index {
			return nil, fmt.Errorf("logs of block %d: %w: log %d does not belong", block.Number, ErrInconsistent, i)
		}
		logs[i] = evm.Log{Address: l.Address, Topics: l.Topics, Data: l.Data, TxHash: l.TxHash, Index: uint(l.Index)}
	}
	return logs, nil
}

// blocksWithLogs returns the hashes of blocks from first to last in which the node finds logs of the addresses.
func (c *Client) blocksWithLogs(ctx context.Context, first, last uint64, addresses []evm.Address) (map[evm.Hash]bool, error) {
	var answer []logJSON
	err := c.ask(ctx, &answer, "eth_getLogs", map[string]any{
		"fromBlock": hexutil.EncodeUint64(first), "toBlock": hexutil.EncodeUint64(last), "address": addresses,
	})
	found := make(map[evm.Hash]bool)
	for _, l := range answer {
		found[l.BlockHash] = true
	}
	return found, err
}

// message is a call as eth_call and eth_estimateGas take it.
type message struct {
	From  evm.Address    `json:"from"`
	To    *evm.Address   `json:"to,omitempty"`
	Gas   hexutil.Uint64 `json:"gas,omitempty"`
	Value *hexutil.Big   `json:"value,omitempty"`
	Data  hexutil.Bytes  `json:"input,omitempty"`
}

func (c *Client) nonceAt(ctx context.Context, account evm.Address, tag string) (uint64, error) {
	var nonce hexutil.Uint64
	err := c.ask(ctx, &nonce, "eth_getTransactionCount", account, tag)
	return uint64(nonce), err
}

// ask makes one request with a time limit.
func (c *Client) ask(ctx context.Context, result any, method string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	if err := c.rpc.CallContext(ctx, result, method, args...); err != nil {
		return nodeError(method, err)
	}
	return nil
}

// bounded limits the size of answers.
type bounded struct{ http.RoundTripper }

var errAnswerTooLarge = fmt.Errorf("node's answer is larger than %d bytes", answerBytesMax)

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		response.Body = &boundedBody{ReadCloser: response.Body, left: answerBytesMax}
	}
	return response, err
}

type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errAnswerTooLarge
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
