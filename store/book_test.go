package store

import (
	"testing"

	"github.com/farthing402/farthing/clearing"
	"github.com/farthing402/farthing/clearing/booktest"
)

func TestBook(t *testing.T) { onEach(t, testBook) }

func testBook(t *testing.T, db database) {
	booktest.Run(t, func(t *testing.T) clearing.Book { return db.fresh(t).Clearing() })
}
