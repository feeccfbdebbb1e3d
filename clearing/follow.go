package clearing

import (
	"context"
	"errors"
)

// Apply applies a block's events.
func (h *House) Apply(ctx context.Context, stream Stream, b Block, events []Event) error {
	return errors.ErrUnsupported
}

// Unwind drops blocks above `to`.
func (h *House) Unwind(ctx context.Context, stream Stream, to uint64) error {
	return errors.ErrUnsupported
}

// Tips returns the newest blocks applied on a stream, newest first.
func (h *House) Tips(ctx context.Context, stream Stream, limit int) (list []Block, err error) {
	err = h.Book.Read(ctx, func(tx Tx) (err error) { list, err = tx.Blocks(stream, limit); return err })
	return list, err
}

// Check checks every invariant.
func (h *House) Check(ctx context.Context) error { return errors.ErrUnsupported }
