package facilitator

import (
	"context"
	"net/http"
	"time"
)

// Catalogue keeps what was seen sold, JSON by name. Implementations are safe for concurrent use.
type Catalogue interface {
	Put(ctx context.Context, name string, item []byte, at time.Time) error
	// List returns the items with their names, in the order in which they were first seen.
	List(ctx context.Context) (names []string, items [][]byte, err error)
}

func (h *handler) resources(w http.ResponseWriter, r *http.Request) error { return write(w, nil) }
