//go:build !unix

package postgres

import "syscall"

// beNobody has nothing to do where no user is root.
func beNobody(*syscall.SysProcAttr, string) error { return nil }
