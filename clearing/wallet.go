package clearing

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

// Wallet is what the operator has said of an address. An address of which nothing was said is in good standing, and no
// member.
type Wallet struct {
	Address       evm.Address
	Name, Contact string
	Role          string   // what its login may do; empty: a user
	Scopes        []string // of its login; nil: those of its role
	Status        WalletStatus
	Member        bool
	// Limit is the most that the wallet may promise in one cycle, in the smallest units of whichever asset; Limited says
	// whether there is one. It holds beside the owner's own.
	Limit     money.Amount
	Limited   bool
	UpdatedAt int64 // unix milliseconds of the house's clock
}

// WalletStatus is how a wallet stands.
type WalletStatus string

// The standings.
const (
	WalletActive    WalletStatus = "active"
	WalletSuspended WalletStatus = "suspended" // can neither promise nor be promised anything
	WalletRevoked   WalletStatus = "revoked"   // suspended, and cannot log in either
)

// WalletsMax is how many wallets [House.Wallets] returns at once.
const WalletsMax = 1000

// Wallet returns what the operator has said of an address, and whether anything.
func (h *House) Wallet(ctx context.Context, address evm.Address) (w Wallet, found bool, err error) {
	err = h.Book.Read(ctx, func(tx Tx) (err error) {
		w, found, err = walletOf(tx, address)
		return err
	})
	return w, found, err
}

func walletOf(tx Tx, address evm.Address) (Wallet, bool, error) {
	w, found, err := tx.Wallet(address)
	if err == nil && !found {
		w = Wallet{Address: address, Status: WalletActive}
	}
	return w, found, err
}

// ChangeWallet changes what the operator says of an address, which every house on the book keeps to from its next
// admission on. The error of change is returned, and then nothing is changed.
func (h *House) ChangeWallet(ctx context.Context, address evm.Address, now time.Time, change func(*Wallet) error) (w Wallet, err error) {
	err = h.Book.Write(ctx, func(tx Tx) error {
		if w, _, err = walletOf(tx, address); err != nil {
			return err
		}
		if err := change(&w); err != nil {
			return err
		}
		w.Address, w.UpdatedAt = address, now.UnixMilli()
		return tx.PutWallet(w)
	})
	return w, err
}

// Wallets returns those of which the operator has said something, ascending by address, from the one that follows after
// on; at most [WalletsMax].
func (h *House) Wallets(ctx context.Context, after evm.Address, limit int) (list []Wallet, err error) {
	err = h.Book.Read(ctx, func(tx Tx) (err error) {
		list, err = tx.Wallets(after, max(1, min(limit, WalletsMax)))
		return err
	})
	return list, err
}

// roster is what admission needs of the wallets, kept until the book's stamp says that one has changed.
type roster struct {
	mu      sync.Mutex
	stamp   uint64                 // guarded by mu
	wallets map[evm.Address]Wallet // guarded by mu; never changed once set
}

// roster returns the wallets as the transaction sees them. It reads one row, and all of them after a change.
func (h *House) roster(tx Tx) (map[evm.Address]Wallet, error) {
	stamp, err := tx.WalletsStamp()
	if err != nil {
		return nil, err
	}
	h.known.mu.Lock()
	wallets, fresh := h.known.wallets, h.known.stamp == stamp
	h.known.mu.Unlock()
	if fresh {
		return wallets, nil
	}
	wallets = make(map[evm.Address]Wallet)
	for after := (evm.Address{}); ; {
		page, err := tx.Wallets(after, WalletsMax)
		if err != nil {
			return nil, err
		}
		for _, w := range page {
			wallets[w.Address], after = w, w.Address
		}
		if len(page) < WalletsMax {
			break
		}
	}
	h.known.mu.Lock()
	defer h.known.mu.Unlock()
	h.known.stamp, h.known.wallets = stamp, wallets
	return wallets, nil
}

// lowerLimit is the lower of a payer's own limit and the operator's.
func lowerLimit(a Account, w Wallet) (money.Amount, bool) {
	limit, limited := a.Limit()
	switch {
	case limited && w.Limited:
		return money.Min(limit, w.Limit), true
	case w.Limited:
		return w.Limit, true
	}
	return limit, limited
}

// mayDeal says whether two parties may have a guarantee between them: [ErrSuspended] or [ErrNotMember] if not.
func (h *House) mayDeal(wallets map[evm.Address]Wallet, payer, payee evm.Address) error {
	for _, who := range []evm.Address{payer, payee} {
		w, known := wallets[who]
		switch {
		case known && w.Status != WalletActive:
			return fmt.Errorf("%s: %w", who, ErrSuspended)
		case h.MembersOnly && !w.Member:
			return fmt.Errorf("%s: %w", who, ErrNotMember)
		}
	}
	return nil
}
