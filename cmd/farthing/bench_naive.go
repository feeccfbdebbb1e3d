package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/guarantee"
)

// naiveHouse admits guarantees the way that comes to mind first: one transaction for each, the payer's row locked, a
// version on it, what must be known read one by one, and the certificate signed before the commit.
type naiveHouse struct {
	b     *bench
	db    *sql.DB
	drop  func() error
	taken int
}

// naiveConnections is how many transactions run at once: more are slower on two cores.
const naiveConnections = 32

func (b *bench) openNaive(ctx context.Context) (_ *naiveHouse, err error) {
	url, drop, err := b.server.Create(ctx)
	if err != nil {
		return nil, err
	}
	h := &naiveHouse{b: b, drop: drop}
	if h.db, err = sql.Open("pgx", url); err != nil {
		return nil, errors.Join(err, drop())
	}
	h.db.SetMaxOpenConns(naiveConnections)
	h.db.SetMaxIdleConns(naiveConnections)
	for _, statement := range []string{
		"CREATE TABLE wallet (address BYTEA PRIMARY KEY, collateral NUMERIC(78,0) NOT NULL, locked NUMERIC(78,0) NOT NULL, version BIGINT NOT NULL)",
		"CREATE TABLE cycle (id BYTEA PRIMARY KEY, status TEXT NOT NULL, cutoff BIGINT NOT NULL)",
		`CREATE TABLE guarantee (id BYTEA PRIMARY KEY, cycle BYTEA NOT NULL, payer BYTEA NOT NULL, payee BYTEA NOT NULL, amount NUMERIC(78,0) NOT NULL,
			asset BYTEA NOT NULL, req_id BYTEA NOT NULL, timestamp BIGINT NOT NULL, signature BYTEA NOT NULL, certificate BYTEA NOT NULL)`,
		"CREATE INDEX guarantee_payer ON guarantee (payer, cycle)",
		"CREATE INDEX guarantee_payee ON guarantee (payee, cycle)",
	} {
		if _, err := h.db.ExecContext(ctx, statement); err != nil {
			return nil, errors.Join(err, h.close())
		}
	}
	cycle := h.cycle()
	if _, err := h.db.ExecContext(ctx, "INSERT INTO cycle VALUES ($1, 'open', $2)", cycle[:], b.Now.Unix()+3600); err != nil {
		return nil, errors.Join(err, h.close())
	}
	addresses := make([][]byte, len(b.keys))
	for i, k := range b.keys {
		a := k.Address()
		addresses[i] = a[:]
	}
	_, err = h.db.ExecContext(ctx, "INSERT INTO wallet SELECT a, 1000000000000, 0, 0 FROM unnest($1::bytea[]) a", addresses)
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

func (h *naiveHouse) close() error { return errors.Join(h.db.Close(), h.drop()) }

func (h *naiveHouse) cycle() evm.Hash {
	return clearing.CycleRef{Asset: h.b.token.Address, Start: uint64(h.b.Now.Unix())}.ID()
}

// admit admits one guarantee.
func (h *naiveHouse) admit(ctx context.Context, s guarantee.Signed) error {
	c, cycle := s.Claims, h.cycle()
	digest, err := s.Verify(h.b.deployment.ClaimsSeparator(), guarantee.Rules{})
	if err != nil {
		return err
	}
	tx, err := h.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	var collateral, locked, status string
	var version, there int64
	for _, read := range []struct {
		query string
		arg   []byte
		to    []any
	}{
		{"SELECT version FROM wallet WHERE address = $1", c.Payer[:], []any{&version}},
		{"SELECT version FROM wallet WHERE address = $1", c.Payee[:], []any{&version}},
		{"SELECT status FROM cycle WHERE id = $1", cycle[:], []any{&status}},
		{"SELECT count(*) FROM guarantee WHERE id = $1", digest[:], []any{&there}},
		{"SELECT collateral, locked, version FROM wallet WHERE address = $1 FOR UPDATE", c.Payer[:], []any{&collateral, &locked, &version}},
		{"SELECT count(*) FROM guarantee WHERE id = $1", digest[:], []any{&there}},
	} {
		if err := tx.QueryRowContext(ctx, read.query, read.arg).Scan(read.to...); err != nil {
			return fmt.Errorf("%s: %w", read.query, err)
		}
	}
	if there != 0 || status != "open" {
		return fmt.Errorf("guarantee is there %d times, its cycle is %s", there, status)
	}
	certificate, err := h.b.authority.Certify(guarantee.EncodeClaims(h.b.deployment.CertificateDomain(), cycle, c))
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO guarantee VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)", digest[:], cycle[:], c.Payer[:], c.Payee[:],
		c.Amount.String(), c.Asset[:], c.ReqID[:], int64(c.Timestamp), s.Signature[:], certificate.Signature[:])
	if err != nil {
		return err
	}
	done, err := tx.ExecContext(ctx, `UPDATE wallet SET locked = locked + $1::numeric, version = version + 1
		WHERE address = $2 AND version = $3 AND locked + $1::numeric <= collateral`, c.Amount.String(), c.Payer[:], version)
	if err != nil {
		return err
	}
	if n, err := done.RowsAffected(); err != nil || n != 1 {
		return errors.Join(err, errors.New("payer's row has moved, or has too little"))
	}
	return tx.Commit()
}

// naive is the side of the plain way, with the guarantees of a pool.
func (b *bench) naive(ctx context.Context, whose int) (side, error) {
	h, err := b.openNaive(ctx)
	if err != nil {
		return side{}, err
	}
	return side{count: b.Sizes.Naive, close: h.close,
		slice: func(ctx context.Context, n int) (time.Duration, error) {
			list, err := b.signedOf(ctx, whose, h.taken, n)
			if err != nil {
				return 0, err
			}
			h.taken += n
			began := time.Now()
			err = inParallel(ctx, naiveConnections, n, 1, func(i, _ int) error { return h.admit(ctx, list[i]) })
			return time.Since(began), err
		},
		check: func(ctx context.Context) error {
			var n int
			err := h.db.QueryRowContext(ctx, "SELECT count(*) FROM guarantee").Scan(&n)
			if err == nil && n != h.taken {
				err = fmt.Errorf("%d guarantees were admitted, %d are there", h.taken, n)
			}
			return err
		},
	}, nil
}
