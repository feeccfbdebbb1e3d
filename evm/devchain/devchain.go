// Package devchain is an Ethereum node for development, embedded in the process: go-ethereum's node without peers, with
// every fork through Osaka, making one block per wall second. It answers JSON-RPC over HTTP on the loopback interface.
//
// Most callers want [Start] and [Accounts]. Tests set [Config.Manual] and drive the chain with [Chain.Mine],
// [Chain.Reorg] and [Chain.AdvanceTime], so that reorganisations happen in a real node at a chosen moment.
//
// # What is on it
//
// Beside ether and test money for the accounts, the chain carries what public chains have at fixed addresses
// ([contracts.Canonical]) with code of our own, and at the addresses of the tokens that package network has for its chain
// id, test money with their names and versions: a program that is configured for base-sepolia runs against a development
// chain with the id 84532 as it stands. [Onto] puts the same on an anvil.
//
// # Invariants
//
// A ticking chain makes at most one block per second of the wall clock, empty ones too, and no block is dated ahead of
// the wall clock: windows that contracts measure in seconds pass at the speed that people see. A manual chain has its
// own clock, which moves only with its blocks.
//
// The base fee stays at a few wei (see [GasLimit]): clients that offer a fixed 0.1 gwei are always served.
//
// # Durability
//
// Without a directory the chain lives in memory. With one, [Chain.Close] keeps everything; after a killed process the
// chain continues from the last block that held a transaction or a little later, so only empty blocks are lost. To
// everyone else such a restart is a reorganisation.
//
// # Concurrency
//
// A Chain is safe for concurrent use.
package devchain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/core"
	"github.com/ethereum/go-ethereum/core/rawdb"
	"github.com/ethereum/go-ethereum/eth"
	"github.com/ethereum/go-ethereum/eth/ethconfig"
	"github.com/ethereum/go-ethereum/eth/filters"
	"github.com/ethereum/go-ethereum/node"
	"github.com/ethereum/go-ethereum/p2p"
	"github.com/ethereum/go-ethereum/rpc"

	"github.com/farthing402/farthing/network"
)

const (
	// DefaultChainID is the chain id that development tools know as their own.
	DefaultChainID = 31337

	// DefaultPeriod is the time between blocks. Block timestamps count whole seconds, so no shorter period exists.
	DefaultPeriod = time.Second

	// FinalizedDepth is how far the block that the node calls finalized lies behind the head.
	FinalizedDepth = 64
)

// Config says which chain to run. The zero value is a chain in memory with id 31337 on a free port, one block per second.
type Config struct {
	ChainID uint64        // 0 means DefaultChainID
	Dir     string        // where the chain is kept; "" keeps it in memory
	Listen  string        // loopback host and port; "" means 127.0.0.1 and a free port
	Period  time.Duration // whole seconds between blocks; 0 means DefaultPeriod
	Logger  *slog.Logger  // nil discards

	// Manual makes no block by itself: Mine, Reorg and AdvanceTime do.
	Manual bool

	// Tokens are those that test money takes the place of, at their addresses and under their names; nil means those of
	// [Registered], if there are any. A chain that is continued has what it began with.
	Tokens []network.Token

	// Genesis dates the first block of a new chain; the zero value means now.
	Genesis time.Time
}

// Chain is a running node. Close it.
type Chain struct {
	node    *node.Node
	backend *eth.Ethereum
	url     string
	log     *slog.Logger
	keep    bool // the state is written to disk
	manual  bool

	mu      sync.Mutex
	branch  int           // guarded by mu: branches made, so that no two hold equal blocks
	advance time.Duration // guarded by mu: extra time before the next manual block

	stop   context.CancelFunc
	ticker sync.WaitGroup
	closed sync.Once
	err    error // of the first Close
}

// Start runs a node until Close; ctx bounds only the start. A directory that holds a chain continues it, and it is an
// error to ask for another chain id there. Two processes cannot share a directory.
func Start(ctx context.Context, c Config) (*Chain, error) {
	if c.ChainID == 0 {
		c.ChainID = DefaultChainID
	}
	if c.Period == 0 {
		c.Period = DefaultPeriod
	}
	if c.Period < time.Second || c.Period%time.Second != 0 {
		return nil, fmt.Errorf("start devchain: period %v is not a whole number of seconds", c.Period)
	}
	if c.Genesis.IsZero() {
		c.Genesis = time.Now()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	chain, err := start(c)
	if err != nil {
		return nil, fmt.Errorf("start devchain: %w", err)
	}
	return chain, nil
}

func start(c Config) (*Chain, error) {
	host, port, err := listenAddress(c.Listen)
	if err != nil {
		return nil, err
	}
	genesis, err := genesisIn(c)
	if err != nil {
		return nil, err
	}
	stack, err := node.New(&node.Config{
		Name:                 "devchain",
		DataDir:              c.Dir,
		HTTPHost:             host,
		HTTPPort:             port,
		HTTPModules:          []string{"eth", "net", "web3", "txpool"},
		HTTPVirtualHosts:     []string{"localhost"},
		HTTPTimeouts:         rpc.DefaultHTTPTimeouts,
		BatchRequestLimit:    1000,
		BatchResponseMaxSize: 25 << 20,
		UseLightweightKDF:    true,
		P2P:                  p2p.Config{NoDiscovery: true, NoDial: true, MaxPeers: 0},
	})
	if err != nil {
		return nil, err
	}
	backend, err := eth.New(stack, ethConfig(genesis))
	if err != nil {
		return nil, errors.Join(err, stack.Close())
	}
	stack.RegisterAPIs([]rpc.API{{
		Namespace: "eth",
		Service:   filters.NewFilterAPI(filters.NewFilterSystem(backend.APIBackend, filters.Config{})),
	}})
	if err := stack.Start(); err != nil {
		return nil, err // Start has closed the node
	}
	backend.SetSynced() // there are no peers to be behind of
	chain := &Chain{
		node:    stack,
		backend: backend,
		url:     stack.HTTPEndpoint(),
		log:     c.Logger,
		keep:    c.Dir != "",
		manual:  c.Manual,
	}
	ctx, stop := context.WithCancel(context.Background())
	chain.stop = stop
	if !c.Manual {
		if err := chain.tick(time.Now()); err != nil {
			return nil, errors.Join(err, chain.Close())
		}
		chain.ticker.Go(func() { chain.run(ctx, c.Period) })
	}
	c.Logger.Info("devchain started", "url", chain.url, "chain_id", c.ChainID, "block", chain.head().Number.Uint64())
	return chain, nil
}

// URL returns the address of the node's JSON-RPC, such as http://127.0.0.1:8545.
func (c *Chain) URL() string { return c.url }

// Close stops making blocks, writes the chain to its directory if it has one, and frees the port. Closing again does
// nothing and returns the same error.
func (c *Chain) Close() error {
	c.closed.Do(func() {
		c.stop()
		c.ticker.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		if err := c.node.Close(); err != nil {
			c.err = fmt.Errorf("close devchain: %w", err)
		}
	})
	return c.err
}

func ethConfig(genesis *core.Genesis) *ethconfig.Config {
	c := ethconfig.Defaults
	c.Genesis = genesis
	c.SyncMode = ethconfig.FullSync
	// Hash scheme: it lets flush write the state of one chosen block, where the path scheme keeps days of a quiet chain in
	// memory only and a killed process falls back to genesis.
	c.StateScheme = rawdb.HashScheme
	c.DatabaseCache, c.DatabaseHandles = 64, 64
	c.TrieCleanCache, c.TrieDirtyCache, c.SnapshotCache = 16, 128, 0
	c.TransactionHistory = 0 // every transaction stays findable
	c.LogNoHistory = true    // logs are searched block by block, which is right at once after a reorganisation
	c.Miner.GasCeil = GasLimit
	c.Miner.GasPrice = big.NewInt(1)
	c.Miner.Recommit = 500 * time.Millisecond // a block is built in half its second at most
	c.TxPool.NoLocals = true
	c.TxPool.PriceLimit = 1
	c.GPO.MaxPrice = big.NewInt(100_000_000) // tips that the node suggests stay within 0.1 gwei too
	c.RPCGasCap = 100_000_000
	c.RPCEVMTimeout = time.Minute // the gas is what bounds a call, also on a machine that is busy
	return &c
}

func listenAddress(listen string) (string, int, error) {
	if listen == "" {
		return "127.0.0.1", 0, nil
	}
	host, portText, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, err
	}
	if host == "" {
		host = "127.0.0.1"
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", 0, fmt.Errorf("listen on %s: the keys of this chain are public, so it answers on loopback only", host)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("listen on %s: port %q is not a number", listen, portText)
	}
	return host, int(port), nil
}

// genesisIn returns the genesis that a directory was begun with, or makes and keeps a new one. The file is what lets a
// later program, whose own genesis may differ, continue an older chain.
func genesisIn(c Config) (*core.Genesis, error) {
	if c.Dir == "" {
		return newGenesis(c), nil
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(c.Dir, "genesis.json")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		genesis := newGenesis(c)
		if text, err = json.Marshal(genesis); err != nil {
			return nil, err
		}
		temporary := path + ".new"
		if err := os.WriteFile(temporary, text, 0o600); err != nil {
			return nil, err
		}
		return genesis, os.Rename(temporary, path)
	}
	if err != nil {
		return nil, err
	}
	genesis := new(core.Genesis)
	if err := json.Unmarshal(text, genesis); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if genesis.Config == nil || genesis.Config.ChainID == nil || genesis.Config.ChainID.Cmp(new(big.Int).SetUint64(c.ChainID)) != 0 {
		return nil, fmt.Errorf("directory %s holds another chain than %d: name its chain id or another directory", c.Dir, c.ChainID)
	}
	return genesis, nil
}
