// Package logintest holds what every login.Book must do, as tests: [Run] them on each implementation.
package logintest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/login"
)

// Run tests a book. open returns a new, empty one for each test, and cleans up after it.
func Run(t *testing.T, open func(t *testing.T) login.Book) {
	for name, test := range map[string]func(*testing.T, book){
		"nonces are used once": nonces, "tokens": tokens, "keys": keys, "what is over is forgotten": forget,
		"a write that fails leaves nothing": fails, "one of many uses a nonce": race,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, book{t, open(t)}) })
	}
}

type book struct {
	*testing.T
	login.Book
}

var now = time.Unix(1_782_122_400, 0).UTC()

func hash(n byte) evm.Hash { return evm.Hash{n, 31: n} }

func (b book) write(fn func(login.Tx) error) {
	b.Helper()
	if err := b.Write(context.Background(), fn); err != nil {
		b.Fatal(err)
	}
}

func (b book) read(fn func(login.Tx) error) {
	b.Helper()
	if err := b.Read(context.Background(), fn); err != nil {
		b.Fatal(err)
	}
}

func same(t testing.TB, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func nonces(t *testing.T, b book) {
	for i, want := range []bool{true, false} {
		b.write(func(tx login.Tx) error {
			used, err := tx.NonceUsed(hash(1))
			same(t, "used", used, !want)
			fresh, err2 := tx.UseNonce(hash(1), now.Add(time.Duration(i)*time.Hour))
			same(t, "fresh", fresh, want)
			return errors.Join(err, err2)
		})
	}
	b.read(func(tx login.Tx) error {
		used, err := tx.NonceUsed(hash(2))
		same(t, "another", used, false)
		return err
	})
}

func token(n, family byte) login.Token {
	return login.Token{Hash: hash(n), Family: hash(family), Address: evm.Address{n}, Expires: now.Add(time.Hour)}
}

func tokens(t *testing.T, b book) {
	b.write(func(tx login.Tx) error {
		return errors.Join(tx.AddToken(token(1, 9)), tx.AddToken(token(2, 9)), tx.AddToken(token(3, 8)))
	})
	get := func(n byte) (row login.Token, found bool) {
		b.read(func(tx login.Tx) (err error) { row, found, err = tx.Token(hash(n)); return err })
		return row, found
	}
	row, found := get(1)
	same(t, "token", row, token(1, 9))
	same(t, "found", found, true)
	_, found = get(4)
	same(t, "found what is not there", found, false)
	for n, want := range map[byte][]bool{1: {true, false}, 4: {false}} {
		for _, w := range want {
			b.write(func(tx login.Tx) error {
				ended, err := tx.RevokeToken(hash(n))
				same(t, "revoked", ended, w)
				return err
			})
		}
	}
	if row, _ := get(2); row.Revoked {
		t.Error("a token was revoked with another one")
	}
	b.write(func(tx login.Tx) error { return tx.RevokeFamily(hash(9)) })
	for n, want := range map[byte]bool{1: true, 2: true, 3: false} {
		row, _ := get(n)
		same(t, "revoked with its family", row.Revoked, want)
	}
	if err := b.Write(context.Background(), func(tx login.Tx) error { return tx.AddToken(token(3, 8)) }); err == nil {
		t.Error("a token was added twice")
	}
}

func keys(t *testing.T, b book) {
	first := login.Key{ID: "b", Name: "first", Hash: hash(1), Scopes: []string{"x:y", "z:w"}, Created: now}
	second := login.Key{ID: "a", Name: "zweiter, »ü«", Hash: hash(2), Scopes: []string{"x:y"}, Created: now.Add(time.Millisecond)}
	b.write(func(tx login.Tx) error { return errors.Join(tx.AddKey(second), tx.AddKey(first)) })
	b.read(func(tx login.Tx) error {
		list, err := tx.Keys()
		same(t, "keys, the oldest first", list, []login.Key{first, second})
		k, found, err2 := tx.KeyByHash(hash(2))
		same(t, "key", k, second)
		same(t, "found", found, true)
		_, found, err3 := tx.KeyByHash(hash(3))
		same(t, "found what is not there", found, false)
		return errors.Join(err, err2, err3)
	})
	ended := second
	ended.Revoked = now.Add(time.Minute)
	for _, at := range []time.Time{ended.Revoked, now.Add(time.Hour)} {
		b.write(func(tx login.Tx) error {
			k, found, err := tx.RevokeKey("a", at)
			same(t, "revoked key", k, ended)
			same(t, "found", found, true)
			return err
		})
	}
	b.write(func(tx login.Tx) error {
		_, found, err := tx.RevokeKey("c", now)
		same(t, "revoked what is not there", found, false)
		return err
	})
}

func forget(t *testing.T, b book) {
	b.write(func(tx login.Tx) error {
		var errs []error
		for n := range byte(4) {
			row := token(n, n)
			row.Expires = now.Add(time.Duration(n) * time.Minute)
			_, err := tx.UseNonce(hash(n), row.Expires)
			errs = append(errs, err, tx.AddToken(row))
		}
		return errors.Join(errs...)
	})
	b.write(func(tx login.Tx) error { return tx.Forget(now.Add(90 * time.Second)) })
	b.read(func(tx login.Tx) error {
		for n := range byte(4) {
			used, err := tx.NonceUsed(hash(n))
			_, found, err2 := tx.Token(hash(n))
			if want := n >= 2; used != want || found != want || err != nil || err2 != nil {
				t.Errorf("%d: nonce %v, token %v, want %v (%v, %v)", n, used, found, want, err, err2)
			}
		}
		return nil
	})
}

func fails(t *testing.T, b book) {
	failure := errors.New("no")
	err := b.Write(context.Background(), func(tx login.Tx) error {
		_, err := tx.UseNonce(hash(1), now)
		return errors.Join(err, tx.AddToken(token(1, 1)), tx.AddKey(login.Key{ID: "a", Hash: hash(1), Scopes: []string{"x"}, Created: now}), failure)
	})
	if !errors.Is(err, failure) {
		t.Errorf("the closure's error comes back as %v", err)
	}
	b.read(func(tx login.Tx) error {
		used, err := tx.NonceUsed(hash(1))
		_, found, err2 := tx.Token(hash(1))
		list, err3 := tx.Keys()
		if used || found || len(list) > 0 {
			t.Errorf("left: nonce %v, token %v, %d keys", used, found, len(list))
		}
		return errors.Join(err, err2, err3)
	})
}

// Whoever comes with the same nonce or token at the same time, one of them has it.
func race(t *testing.T, b book) {
	b.write(func(tx login.Tx) error { return tx.AddToken(token(1, 1)) })
	var won [2]atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			var fresh, ended bool
			err := b.Write(context.Background(), func(tx login.Tx) error {
				var errs [2]error
				fresh, errs[0] = tx.UseNonce(hash(1), now)
				ended, errs[1] = tx.RevokeToken(hash(1))
				return errors.Join(errs[:]...)
			})
			if err != nil {
				t.Error(err)
			}
			for i, got := range []bool{fresh, ended} {
				if got {
					won[i].Add(1)
				}
			}
		})
	}
	wg.Wait()
	if got := []int32{won[0].Load(), won[1].Load()}; !slices.Equal(got, []int32{1, 1}) {
		t.Errorf("%v of 16 had the nonce, the token", got)
	}
}
