package login

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/x402"
)

// The scopes of API keys.
const (
	ScopeSuspend  = "user_suspension:write"
	ScopeKeys     = "admin_api_keys:manage"
	ScopeMembers  = "members:manage"
	ScopeMetrics  = "metrics:read"
	ScopeWebhooks = "webhooks:manage"
)

var keyScopes = []string{ScopeSuspend, ScopeKeys, ScopeMembers, ScopeMetrics, ScopeWebhooks}

// KeyPrefix is what the text of every API key begins with.
const KeyPrefix = "ak_"

const keyNameBytes = 100

// Key is an API key as it is kept.
type Key struct {
	ID      string
	Name    string
	Hash    evm.Hash // SHA-256 of its text
	Scopes  []string
	Created time.Time
	Revoked time.Time // zero: it is good
}

// NewKey makes an API key and returns its text, which is shown this once.
func (s *Service) NewKey(ctx context.Context, name string, scopes []string, now time.Time) (Key, string, error) {
	if name = strings.TrimSpace(name); name == "" || len(name) > keyNameBytes {
		return Key{}, "", x402.Errorf("malformed_request", "name: between 1 and %d bytes", keyNameBytes)
	}
	if len(scopes) == 0 {
		return Key{}, "", x402.Errorf("malformed_request", "scopes: at least one of %s", strings.Join(keyScopes, ", "))
	}
	for _, scope := range scopes {
		if !slices.Contains(keyScopes, scope) {
			return Key{}, "", x402.Errorf("malformed_request", "scope %q: there are %s", clip(scope), strings.Join(keyScopes, ", "))
		}
	}
	var secret [40]byte
	_, _ = rand.Read(secret[:]) // never fails
	text := KeyPrefix + hex.EncodeToString(secret[8:])
	k := Key{
		ID: hex.EncodeToString(secret[:8]), Name: name, Hash: hashText(text), Scopes: slices.Compact(slices.Sorted(slices.Values(scopes))),
		Created: now.UTC().Truncate(time.Millisecond),
	}
	err := s.Book.Write(ctx, func(tx Tx) error { return tx.AddKey(k) })
	return k, text, err
}

// Keys returns all API keys, also those that were revoked, the oldest first.
func (s *Service) Keys(ctx context.Context) (list []Key, err error) {
	err = s.Book.Read(ctx, func(tx Tx) (err error) { list, err = tx.Keys(); return err })
	return list, err
}

// RevokeKey ends an API key; ended ones stay as they are. The error is not_found for one that never was.
func (s *Service) RevokeKey(ctx context.Context, id string, now time.Time) (k Key, err error) {
	var found bool
	err = s.Book.Write(ctx, func(tx Tx) (err error) {
		k, found, err = tx.RevokeKey(id, now.UTC().Truncate(time.Millisecond))
		return err
	})
	if err == nil && !found {
		err = x402.Errorf("not_found", "no key %q", clip(id))
	}
	return k, err
}

// Key returns whose key a text is. The error is api_key_invalid for one that is none, or was revoked.
func (s *Service) Key(ctx context.Context, text string) (k Key, err error) {
	var found bool
	if strings.HasPrefix(text, KeyPrefix) {
		err = s.Book.Read(ctx, func(tx Tx) (err error) { k, found, err = tx.KeyByHash(hashText(text)); return err })
	}
	if err == nil && (!found || !k.Revoked.IsZero()) {
		err = x402.Errorf("api_key_invalid", "API key is not known, or was revoked")
	}
	return k, err
}
