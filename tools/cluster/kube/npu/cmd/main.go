// Command npu-device-plugin is the plug-in alone, for a cluster whose other programs were not built here.
package main

import (
	"os"

	"detinf.io/tools/cluster/kube/npu"
)

func main() {
	os.Exit(npu.Main(os.Args[1:]))
}
