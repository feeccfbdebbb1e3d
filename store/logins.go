package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/login"
)

// Logins returns the view of who signs in.
func (s *Store) Logins() login.Book { return logins{s} }

type logins struct{ s *Store }

// Read implements [login.Book].
func (b logins) Read(ctx context.Context, fn func(login.Tx) error) error {
	return b.s.read(ctx, func(s *session) error { return fn(loginTx{&tx{session: s, stop: ctx.Err}}) })
}

// Write implements [login.Book].
func (b logins) Write(ctx context.Context, fn func(login.Tx) error) error {
	return b.s.write(ctx, func(s *session) error { return fn(loginTx{&tx{session: s, stop: ctx.Err}}) })
}

type loginTx struct{ *tx }

// NonceUsed implements [login.Tx].
func (t loginTx) NonceUsed(nonce evm.Hash) (bool, error) {
	var one int
	return t.one("SELECT 1 FROM login_nonce WHERE nonce = ?", []any{nonce[:]}, &one)
}

// UseNonce implements [login.Tx].
func (t loginTx) UseNonce(nonce evm.Hash, until time.Time) (bool, error) {
	n, err := t.exec("INSERT INTO login_nonce (nonce, until) VALUES (?, ?) ON CONFLICT (nonce) DO NOTHING", nonce[:], until.UnixMilli())
	return n == 1, err
}

// Token implements [login.Tx].
func (t loginTx) Token(hash evm.Hash) (row login.Token, found bool, err error) {
	var expires int64
	found, err = t.one("SELECT hash, family, address, expires_at, revoked FROM login_token WHERE hash = ?", []any{hash[:]},
		fixed(row.Hash[:]), fixed(row.Family[:]), fixed(row.Address[:]), &expires, flag{&row.Revoked})
	if err != nil {
		return login.Token{}, false, corrupt("login_token", hash.Short(), err)
	}
	if found {
		row.Expires = time.UnixMilli(expires).UTC()
	}
	return row, found, nil
}

// AddToken implements [login.Tx].
func (t loginTx) AddToken(row login.Token) error {
	return t.put("login_token", row.Hash.Short(), "INSERT INTO login_token (hash, family, address, expires_at, revoked) VALUES (?, ?, ?, ?, ?)",
		row.Hash[:], row.Family[:], row.Address[:], row.Expires.UnixMilli(), bit(row.Revoked))
}

// RevokeToken implements [login.Tx].
func (t loginTx) RevokeToken(hash evm.Hash) (bool, error) {
	n, err := t.exec("UPDATE login_token SET revoked = 1 WHERE hash = ? AND revoked = 0", hash[:])
	return n == 1, err
}

// RevokeFamily implements [login.Tx].
func (t loginTx) RevokeFamily(family evm.Hash) error {
	return t.put("login_token", family.Short(), "UPDATE login_token SET revoked = 1 WHERE family = ?", family[:])
}

// forgetMax is how many rows one sign-in clears away; each brings two at most.
const forgetMax = 100

// Forget implements [login.Tx].
func (t loginTx) Forget(now time.Time) error {
	for _, query := range []string{
		"DELETE FROM login_nonce WHERE nonce IN (SELECT nonce FROM login_nonce WHERE until < ? LIMIT ?)",
		"DELETE FROM login_token WHERE hash IN (SELECT hash FROM login_token WHERE expires_at < ? LIMIT ?)",
	} {
		if _, err := t.exec(query, now.UnixMilli(), forgetMax); err != nil {
			return fmt.Errorf("forget logins: %w", err)
		}
	}
	return nil
}

// Keys implements [login.Tx].
func (t loginTx) Keys() ([]login.Key, error) { return t.keys("ORDER BY created_at, id") }

// KeyByHash implements [login.Tx].
func (t loginTx) KeyByHash(hash evm.Hash) (login.Key, bool, error) {
	return first(t.keys("WHERE hash = ?", hash[:]))
}

func (t loginTx) keys(where string, args ...any) (list []login.Key, err error) {
	err = t.each("SELECT id, name, hash, scopes, created_at, revoked_at FROM api_key "+where, args, func(rows *sql.Rows) error {
		var k login.Key
		var scopes string
		var created int64
		var revoked sql.NullInt64
		if err := rows.Scan(&k.ID, &k.Name, fixed(k.Hash[:]), &scopes, &created, &revoked); err != nil {
			return err
		}
		k.Scopes, k.Created = strings.Fields(scopes), time.UnixMilli(created).UTC()
		if revoked.Valid {
			k.Revoked = time.UnixMilli(revoked.Int64).UTC()
		}
		list = append(list, k)
		return nil
	})
	if err != nil {
		return nil, corrupt("api_key", where, err)
	}
	return list, nil
}

// AddKey implements [login.Tx].
func (t loginTx) AddKey(k login.Key) error {
	return t.put("api_key", k.ID, "INSERT INTO api_key (id, name, hash, scopes, created_at) VALUES (?, ?, ?, ?, ?)",
		k.ID, k.Name, k.Hash[:], strings.Join(k.Scopes, " "), k.Created.UnixMilli())
}

// RevokeKey implements [login.Tx].
func (t loginTx) RevokeKey(id string, at time.Time) (login.Key, bool, error) {
	if err := t.put("api_key", id, "UPDATE api_key SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL", at.UnixMilli(), id); err != nil {
		return login.Key{}, false, err
	}
	return first(t.keys("WHERE id = ?", id))
}

// Secret returns the random bytes that the database keeps under a name: the same to every process, made for the first
// that asks.
func (s *Store) Secret(ctx context.Context, name string) (secret [32]byte, err error) {
	var found bool
	err = s.read(ctx, func(r *session) error {
		secret, found, err = r.secret(name)
		return err
	})
	if err != nil || found {
		return secret, err
	}
	err = s.write(ctx, func(w *session) error {
		var fresh [32]byte
		if _, err := rand.Read(fresh[:]); err != nil {
			return fmt.Errorf("make secret: %w", err)
		}
		// Of two processes that are first, the first in the database has made the secret of both.
		if _, err := w.exec("INSERT INTO secret (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", name, fresh[:]); err != nil {
			return fmt.Errorf("make secret: %w", err)
		}
		secret, _, err = w.secret(name)
		return err
	})
	if err != nil {
		return [32]byte{}, err
	}
	return secret, nil
}
