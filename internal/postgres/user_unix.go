//go:build unix

package postgres

import (
	"fmt"
	"os"
	"os/user"
	"runtime"
	"strconv"
	"syscall"
)

// beNobody has what is started be the user that PostgreSQL's packages make, and gives it the folder.
func beNobody(as *syscall.SysProcAttr, folder string) error {
	u, err := user.Lookup("postgres")
	if err != nil {
		return fmt.Errorf("a user for the server: %w", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err1 != nil || err2 != nil {
		return fmt.Errorf("user postgres has no numbers on %s", runtime.GOOS)
	}
	as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return os.Chown(folder, int(uid), int(gid))
}
