package store

import (
	"crypto/rand"
	"database/sql"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
)

const walletColumns = "address, name, contact, role, scopes, status, member, cycle_limit, updated_at"

func scanWallet(scan func(...any) error) (w clearing.Wallet, err error) {
	var scopes string
	var limit sql.NullString
	if err := scan(fixed(w.Address[:]), &w.Name, &w.Contact, &w.Role, &scopes, &w.Status, flag{&w.Member}, &limit, &w.UpdatedAt); err != nil {
		return w, err
	}
	if scopes != "" {
		w.Scopes = strings.Fields(scopes)
	}
	if w.Limited = limit.Valid; w.Limited {
		if w.Limit, err = money.ParseAmount(limit.String); err != nil {
			return w, err
		}
	}
	return w, checkWallet(w)
}

// checkWallet refuses a status that nobody knows, which nobody could judge.
func checkWallet(w clearing.Wallet) error {
	switch w.Status {
	case clearing.WalletActive, clearing.WalletSuspended, clearing.WalletRevoked:
		return nil
	}
	return fmt.Errorf("status %q is none", w.Status)
}

// Wallet implements [clearing.Tx].
func (t *tx) Wallet(address evm.Address) (clearing.Wallet, bool, error) {
	w, found, err := first(t.wallets("WHERE address = ?"+t.held(), address[:]))
	if err != nil {
		return clearing.Wallet{}, false, corrupt("wallet", address, err)
	}
	t.remember(address, found, err)
	return w, found, nil
}

// Wallets implements [clearing.Tx].
func (t *tx) Wallets(after evm.Address, limit int) ([]clearing.Wallet, error) {
	list, err := t.wallets("WHERE address > ? ORDER BY address LIMIT ?", after[:], limit)
	if err != nil {
		return nil, corrupt("wallet", "after "+after.Lower(), err)
	}
	return list, nil
}

func (t *tx) wallets(where string, args ...any) (list []clearing.Wallet, err error) {
	err = t.each("SELECT "+walletColumns+" FROM wallet "+where, args, func(rows *sql.Rows) error {
		w, err := scanWallet(rows.Scan)
		list = append(list, w)
		return err
	})
	return list, err
}

// PutWallet implements [clearing.Tx].
func (t *tx) PutWallet(w clearing.Wallet) error {
	if err := checkWallet(w); err != nil {
		return fmt.Errorf("wallet %s: %w", w.Address, err)
	}
	limit := sql.NullString{String: w.Limit.String(), Valid: w.Limited}
	if err := t.upsert("wallet", w.Address, w.Address, `INSERT INTO wallet (`+walletColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`, `
		ON CONFLICT (address) DO UPDATE SET name = excluded.name, contact = excluded.contact, role = excluded.role, scopes = excluded.scopes,
			status = excluded.status, member = excluded.member, cycle_limit = excluded.cycle_limit, updated_at = excluded.updated_at`,
		w.Address[:], w.Name, w.Contact, w.Role, strings.Join(w.Scopes, " "), string(w.Status), bit(w.Member), limit, w.UpdatedAt); err != nil {
		return err
	}
	var stamp [8]byte // random, so that the stamp of an undone write never comes again
	if _, err := rand.Read(stamp[:]); err != nil {
		return fmt.Errorf("stamp of wallets: %w", err)
	}
	return t.put("wallet_stamp", 0, "INSERT INTO wallet_stamp (id, stamp) VALUES (0, ?) ON CONFLICT (id) DO UPDATE SET stamp = excluded.stamp",
		int64(binary.BigEndian.Uint64(stamp[:])>>1|1))
}

// WalletsStamp implements [clearing.Tx].
func (t *tx) WalletsStamp() (stamp uint64, err error) {
	if _, err := t.one("SELECT stamp FROM wallet_stamp WHERE id = 0"+t.kept(), nil, &stamp); err != nil {
		return 0, corrupt("wallet_stamp", 0, err)
	}
	return stamp, nil
}
