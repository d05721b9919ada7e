// Command pause holds a pod's namespaces until it is asked to end.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM, syscall.SIGINT)
	orphans := make(chan os.Signal, 1)
	signal.Notify(orphans, syscall.SIGCHLD)
	for {
		select {
		case <-asked:
			return
		case <-orphans:
			for {
				process, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
				if err != nil || process <= 0 {
					break
				}
			}
		}
	}
}
