package store

import (
	"database/sql"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
)

// Signer implements [clearing.Tx].
func (t *tx) Signer(owner, key evm.Address) (clearing.Signer, bool, error) {
	s := clearing.Signer{Owner: owner, Key: key}
	found, err := t.one("SELECT until FROM signer WHERE owner = ? AND key = ?", []any{owner[:], key[:]}, &s.Until)
	if err != nil {
		return clearing.Signer{}, false, corrupt("signer", signerKey(owner, key), err)
	}
	if !found {
		return clearing.Signer{}, false, nil
	}
	return s, true, nil
}

// Signers implements [clearing.Tx].
func (t *tx) Signers(owner evm.Address) (all []clearing.Signer, err error) {
	err = t.each("SELECT key, until FROM signer WHERE owner = ? ORDER BY key", []any{owner[:]}, func(rows *sql.Rows) error {
		s := clearing.Signer{Owner: owner}
		if err := rows.Scan(fixed(s.Key[:]), &s.Until); err != nil {
			return corrupt("signer", signerKey(owner, s.Key), err)
		}
		all = append(all, s)
		return nil
	})
	return all, err
}

// PutSigner implements [clearing.Tx].
func (t *tx) PutSigner(s clearing.Signer) error {
	return t.put("signer", signerKey(s.Owner, s.Key), `INSERT INTO signer (owner, key, until) VALUES (?, ?, ?)
		ON CONFLICT (owner, key) DO UPDATE SET until = excluded.until`, s.Owner[:], s.Key[:], s.Until)
}

// DropSigner implements [clearing.Tx].
func (t *tx) DropSigner(owner, key evm.Address) error {
	return t.put("signer", signerKey(owner, key), "DELETE FROM signer WHERE owner = ? AND key = ?", owner[:], key[:])
}

func signerKey(owner, key evm.Address) string { return owner.Lower() + " by " + key.Lower() }
