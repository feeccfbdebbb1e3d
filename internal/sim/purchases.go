package sim

import (
	"context"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
)

// Purchases is a book of purchases with something around each use of it: a fault, a crash, an onlooker.
type Purchases struct {
	Book purchase.Book
	// Around is given what is done with the book, and whether that writes. What it returns is what the caller is told; a
	// use that it does not do has not happened.
	Around func(what string, write bool, do func() error) error
}

var _ purchase.Book = Purchases{}

// Reserve implements [purchase.Book].
func (b Purchases) Reserve(ctx context.Context, p purchase.Purchase) (got purchase.Purchase, err error) {
	err = b.Around("reserve", true, func() (err error) { got, err = b.Book.Reserve(ctx, p); return err })
	return got, err
}

// ReserveCall implements [purchase.Book].
func (b Purchases) ReserveCall(ctx context.Context, p purchase.Purchase, ask purchase.BundleAsk) (got purchase.Purchase, of purchase.Bundle, err error) {
	err = b.Around("reserve call", true, func() (err error) { got, of, err = b.Book.ReserveCall(ctx, p, ask); return err })
	return got, of, err
}

// Run implements [purchase.Book].
func (b Purchases) Run(ctx context.Context, id string, certificate []byte, at time.Time) error {
	return b.Around("run", true, func() error { return b.Book.Run(ctx, id, certificate, at) })
}

// Settling implements [purchase.Book].
func (b Purchases) Settling(ctx context.Context, id string, certificate []byte) error {
	return b.Around("settling", true, func() error { return b.Book.Settling(ctx, id, certificate) })
}

// Settled implements [purchase.Book].
func (b Purchases) Settled(ctx context.Context, id string, transaction evm.Hash) error {
	return b.Around("settled", true, func() error { return b.Book.Settled(ctx, id, transaction) })
}

// NotSettled implements [purchase.Book].
func (b Purchases) NotSettled(ctx context.Context, id string) error {
	return b.Around("not settled", true, func() error { return b.Book.NotSettled(ctx, id) })
}

// Owe implements [purchase.Book].
func (b Purchases) Owe(ctx context.Context, id string, owed money.Amount) error {
	return b.Around("owe", true, func() error { return b.Book.Owe(ctx, id, owed) })
}

// Finish implements [purchase.Book].
func (b Purchases) Finish(ctx context.Context, p purchase.Purchase) error {
	return b.Around("finish", true, func() error { return b.Book.Finish(ctx, p) })
}

// Find implements [purchase.Book].
func (b Purchases) Find(ctx context.Context, payment evm.Hash) (got purchase.Purchase, found bool, err error) {
	err = b.Around("find", false, func() (err error) { got, found, err = b.Book.Find(ctx, payment); return err })
	return got, found, err
}

// FindID implements [purchase.Book].
func (b Purchases) FindID(ctx context.Context, id string) (got purchase.Purchase, found bool, err error) {
	err = b.Around("find", false, func() (err error) { got, found, err = b.Book.FindID(ctx, id); return err })
	return got, found, err
}

// Unfinished implements [purchase.Book].
func (b Purchases) Unfinished(ctx context.Context) (got []purchase.Purchase, err error) {
	err = b.Around("unfinished", false, func() (err error) { got, err = b.Book.Unfinished(ctx); return err })
	return got, err
}

// Bought implements [purchase.Book].
func (b Purchases) Bought(ctx context.Context, payer, payee evm.Address, route string, since time.Time) (got purchase.Purchase, found bool, err error) {
	err = b.Around("bought", false, func() (err error) {
		got, found, err = b.Book.Bought(ctx, payer, payee, route, since)
		return err
	})
	return got, found, err
}

// Captured implements [purchase.Book].
func (b Purchases) Captured(ctx context.Context, payee evm.Address, way, network string, asset evm.Address, limit int) (got []purchase.Purchase, err error) {
	err = b.Around("captured", false, func() (err error) {
		got, err = b.Book.Captured(ctx, payee, way, network, asset, limit)
		return err
	})
	return got, err
}

// Undelivered implements [purchase.Book].
func (b Purchases) Undelivered(ctx context.Context, limit int) (got []purchase.Purchase, err error) {
	err = b.Around("undelivered", false, func() (err error) { got, err = b.Book.Undelivered(ctx, limit); return err })
	return got, err
}

// Delivered implements [purchase.Book].
func (b Purchases) Delivered(ctx context.Context, id string) error {
	return b.Around("delivered", true, func() error { return b.Book.Delivered(ctx, id) })
}

// OpenBundle implements [purchase.Book].
func (b Purchases) OpenBundle(ctx context.Context, id string, validUntil time.Time) error {
	return b.Around("open bundle", true, func() error { return b.Book.OpenBundle(ctx, id, validUntil) })
}

// FindBundle implements [purchase.Book].
func (b Purchases) FindBundle(ctx context.Context, id string) (got purchase.Bundle, found bool, err error) {
	err = b.Around("find bundle", false, func() (err error) { got, found, err = b.Book.FindBundle(ctx, id); return err })
	return got, found, err
}

// Bundles implements [purchase.Book].
func (b Purchases) Bundles(ctx context.Context, payer, payee evm.Address) (got []purchase.Bundle, err error) {
	err = b.Around("bundles", false, func() (err error) { got, err = b.Book.Bundles(ctx, payer, payee); return err })
	return got, err
}

// Refund implements [purchase.Book].
func (b Purchases) Refund(ctx context.Context, r purchase.Refund) (got purchase.Refund, err error) {
	err = b.Around("refund", true, func() (err error) { got, err = b.Book.Refund(ctx, r); return err })
	return got, err
}

// FinishRefund implements [purchase.Book].
func (b Purchases) FinishRefund(ctx context.Context, r purchase.Refund) error {
	return b.Around("finish refund", true, func() error { return b.Book.FinishRefund(ctx, r) })
}

// FindRefund implements [purchase.Book].
func (b Purchases) FindRefund(ctx context.Context, id string) (got purchase.Refund, found bool, err error) {
	err = b.Around("find refund", false, func() (err error) { got, found, err = b.Book.FindRefund(ctx, id); return err })
	return got, found, err
}

// OpenRefunds implements [purchase.Book].
func (b Purchases) OpenRefunds(ctx context.Context) (got []purchase.Refund, err error) {
	err = b.Around("open refunds", false, func() (err error) { got, err = b.Book.OpenRefunds(ctx); return err })
	return got, err
}

// Credit implements [purchase.Book].
func (b Purchases) Credit(ctx context.Context, payer, payee evm.Address, network string, asset evm.Address) (got money.Amount, err error) {
	err = b.Around("credit", false, func() (err error) { got, err = b.Book.Credit(ctx, payer, payee, network, asset); return err })
	return got, err
}

// Secret implements [purchase.Book].
func (b Purchases) Secret(ctx context.Context) (got [32]byte, err error) {
	err = b.Around("secret", false, func() (err error) { got, err = b.Book.Secret(ctx); return err })
	return got, err
}
