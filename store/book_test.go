package store

import (
	"testing"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/clearing/booktest"
)

func TestBook(t *testing.T) {
	t.Parallel()
	booktest.Run(t, func(t *testing.T) clearing.Book { return fresh(t).Clearing() })
}
