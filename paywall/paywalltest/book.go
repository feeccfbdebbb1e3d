package paywalltest

import (
	"context"
	"time"

	"github.com/farthing402/farthing/evm"
	"github.com/farthing402/farthing/money"
	"github.com/farthing402/farthing/purchase"
)

// mortalBook is the book as a process sees it: once that has ended, nothing that it still does is written or read.
type mortalBook struct {
	book purchase.Book
	life *life
}

var _ purchase.Book = mortalBook{}

func (b mortalBook) Reserve(ctx context.Context, p purchase.Purchase) (got purchase.Purchase, err error) {
	if err = b.life.alive(); err == nil {
		got, err = b.book.Reserve(ctx, p)
	}
	return got, err
}

func (b mortalBook) ReserveCall(ctx context.Context, p purchase.Purchase, ask purchase.BundleAsk) (got purchase.Purchase, also purchase.Bundle, err error) {
	if err = b.life.alive(); err == nil {
		got, also, err = b.book.ReserveCall(ctx, p, ask)
	}
	return got, also, err
}

func (b mortalBook) Run(ctx context.Context, id string, certificate []byte, at time.Time) (err error) {
	if err = b.life.alive(); err == nil {
		err = b.book.Run(ctx, id, certificate, at)
	}
	return err
}

func (b mortalBook) Settling(ctx context.Context, id string, certificate []byte) (err error) {
	if err = b.life.alive(); err == nil {
		err = b.book.Settling(ctx, id, certificate)
	}
	return err
}

func (b mortalBook) Settled(ctx context.Context, id string, transaction evm.Hash) (err error) {
	if err = b.life.alive(); err == nil {
		err = b.book.Settled(ctx, id, transaction)
	}
	return err
}

func (b mortalBook) NotSettled(ctx context.Context, id string) (err error) {
	if err = b.life.alive(); err == nil {
		err = b.book.NotSettled(ctx, id)
	}
	return err
}

func (b mortalBook) Owe(ctx context.Context, id string, owed money.Amount) (err error) {
	if err = b.life.alive(); err == nil {
		err = b.book.Owe(ctx, id, owed)
	}
	return err
}

func (b mortalBook) Finish(ctx context.Context, p purchase.Purchase) (err error) {
	if err = b.life.alive(); err == nil {
		err = b.book.Finish(ctx, p)
	}
	return err
}

func (b mortalBook) Find(ctx context.Context, payment evm.Hash) (got purchase.Purchase, found bool, err error) {
	if err = b.life.alive(); err == nil {
		got, found, err = b.book.Find(ctx, payment)
	}
	return got, found, err
}

func (b mortalBook) FindID(ctx context.Context, id string) (got purchase.Purchase, found bool, err error) {
	if err = b.life.alive(); err == nil {
		got, found, err = b.book.FindID(ctx, id)
	}
	return got, found, err
}

func (b mortalBook) Unfinished(ctx context.Context) (got []purchase.Purchase, err error) {
	if err = b.life.alive(); err == nil {
		got, err = b.book.Unfinished(ctx)
	}
	return got, err
}

func (b mortalBook) Bought(ctx context.Context, payer, payee evm.Address, route string, since time.Time) (got purchase.Purchase, found bool, err error) {
	if err = b.life.alive(); err == nil {
		got, found, err = b.book.Bought(ctx, payer, payee, route, since)
	}
	return got, found, err
}

func (b mortalBook) Undelivered(ctx context.Context, limit int) (got []purchase.Purchase, err error) {
	if err = b.life.alive(); err == nil {
		got, err = b.book.Undelivered(ctx, limit)
	}
	return got, err
}

func (b mortalBook) Delivered(ctx context.Context, id string) (err error) {
	if err = b.life.alive(); err == nil {
		err = b.book.Delivered(ctx, id)
	}
	return err
}

func (b mortalBook) OpenBundle(ctx context.Context, id string, validUntil time.Time) (err error) {
	if err = b.life.alive(); err == nil {
		err = b.book.OpenBundle(ctx, id, validUntil)
	}
	return err
}

func (b mortalBook) FindBundle(ctx context.Context, id string) (got purchase.Bundle, found bool, err error) {
	if err = b.life.alive(); err == nil {
		got, found, err = b.book.FindBundle(ctx, id)
	}
	return got, found, err
}

func (b mortalBook) Bundles(ctx context.Context, payer, payee evm.Address) (got []purchase.Bundle, err error) {
	if err = b.life.alive(); err == nil {
		got, err = b.book.Bundles(ctx, payer, payee)
	}
	return got, err
}

func (b mortalBook) Refund(ctx context.Context, r purchase.Refund) (got purchase.Refund, err error) {
	if err = b.life.alive(); err == nil {
		got, err = b.book.Refund(ctx, r)
	}
	return got, err
}

func (b mortalBook) FinishRefund(ctx context.Context, r purchase.Refund) (err error) {
	if err = b.life.alive(); err == nil {
		err = b.book.FinishRefund(ctx, r)
	}
	return err
}

func (b mortalBook) FindRefund(ctx context.Context, id string) (got purchase.Refund, found bool, err error) {
	if err = b.life.alive(); err == nil {
		got, found, err = b.book.FindRefund(ctx, id)
	}
	return got, found, err
}

func (b mortalBook) OpenRefunds(ctx context.Context) (got []purchase.Refund, err error) {
	if err = b.life.alive(); err == nil {
		got, err = b.book.OpenRefunds(ctx)
	}
	return got, err
}

func (b mortalBook) Credit(ctx context.Context, payer, payee evm.Address, network string, asset evm.Address) (got money.Amount, err error) {
	if err = b.life.alive(); err == nil {
		got, err = b.book.Credit(ctx, payer, payee, network, asset)
	}
	return got, err
}

func (b mortalBook) Secret(ctx context.Context) (got [32]byte, err error) {
	if err = b.life.alive(); err == nil {
		got, err = b.book.Secret(ctx)
	}
	return got, err
}
