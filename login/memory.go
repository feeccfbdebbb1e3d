package login

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/farthing402/farthing/evm"
)

// Memory is a [Book] that forgets everything when the process ends: for tests. Make one with [NewMemory].
type Memory struct {
	mu   sync.Mutex
	rows memoryTx
}

// NewMemory returns an empty book.
func NewMemory() *Memory {
	return &Memory{rows: memoryTx{map[evm.Hash]time.Time{}, map[evm.Hash]Token{}, map[string]Key{}}}
}

// Read implements [Book].
func (m *Memory) Read(ctx context.Context, fn func(Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fn(m.rows.clone())
}

// Write implements [Book].
func (m *Memory) Write(ctx context.Context, fn func(Tx) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	after := m.rows.clone()
	if err := fn(after); err != nil {
		return err
	}
	m.rows = after
	return nil
}

type memoryTx struct {
	nonces map[evm.Hash]time.Time
	tokens map[evm.Hash]Token
	keys   map[string]Key
}

func (t memoryTx) clone() memoryTx {
	return memoryTx{maps.Clone(t.nonces), maps.Clone(t.tokens), maps.Clone(t.keys)}
}

func (t memoryTx) NonceUsed(nonce evm.Hash) (bool, error) {
	_, used := t.nonces[nonce]
	return used, nil
}

func (t memoryTx) UseNonce(nonce evm.Hash, until time.Time) (bool, error) {
	if _, used := t.nonces[nonce]; used {
		return false, nil
	}
	t.nonces[nonce] = until
	return true, nil
}

func (t memoryTx) Token(hash evm.Hash) (Token, bool, error) {
	row, ok := t.tokens[hash]
	return row, ok, nil
}

func (t memoryTx) AddToken(row Token) error {
	if _, ok := t.tokens[row.Hash]; ok {
		return fmt.Errorf("token %s is there already", row.Hash.Short())
	}
	t.tokens[row.Hash] = row
	return nil
}

func (t memoryTx) RevokeToken(hash evm.Hash) (bool, error) {
	row, ok := t.tokens[hash]
	if !ok || row.Revoked {
		return false, nil
	}
	row.Revoked = true
	t.tokens[hash] = row
	return true, nil
}

func (t memoryTx) RevokeFamily(family evm.Hash) error {
	for hash, row := range t.tokens {
		if row.Family == family {
			row.Revoked = true
			t.tokens[hash] = row
		}
	}
	return nil
}

func (t memoryTx) Keys() ([]Key, error) {
	return slices.SortedFunc(maps.Values(t.keys), func(a, b Key) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	}), nil
}

func (t memoryTx) KeyByHash(hash evm.Hash) (Key, bool, error) {
	for _, k := range t.keys {
		if k.Hash == hash {
			return k, true, nil
		}
	}
	return Key{}, false, nil
}

func (t memoryTx) AddKey(k Key) error {
	if _, ok := t.keys[k.ID]; ok {
		return fmt.Errorf("key %s is there already", k.ID)
	}
	t.keys[k.ID] = k
	return nil
}

func (t memoryTx) RevokeKey(id string, at time.Time) (Key, bool, error) {
	k, ok := t.keys[id]
	if ok && k.Revoked.IsZero() {
		k.Revoked = at
		t.keys[id] = k
	}
	return k, ok, nil
}

func (t memoryTx) Forget(now time.Time) error {
	maps.DeleteFunc(t.nonces, func(_ evm.Hash, until time.Time) bool { return until.Before(now) })
	maps.DeleteFunc(t.tokens, func(_ evm.Hash, row Token) bool { return row.Expires.Before(now) })
	return nil
}
