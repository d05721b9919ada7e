// Package npu is a device plug-in for simulated Ascend NPUs: it registers on the kubelet's real socket and hands out
// stand-ins for /dev/davinciN, the driver's files and an npu-smi, as the MindCluster plug-in does with real ones.
package npu

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	stub "k8s.io/kubernetes/pkg/kubelet/cm/devicemanager/plugin/v1beta1"
)

// Where the files of the tree go in a container; what the Ascend Docker Runtime and the pod's host paths would mount.
var mounts = []string{
	"usr/local/bin/npu-smi",
	"usr/local/Ascend/driver/version.info",
	"usr/local/Ascend/driver/lib64",
	"usr/local/dcmi",
	"etc/ascend_install.info",
	"etc/hccn.conf",
}

var managers = []string{"davinci_manager", "devmm_svm", "hisi_hdc"}

// Main runs the plug-in until it is asked to end.
func Main(args []string) int {
	flags := flag.NewFlagSet("npu-device-plugin", flag.ContinueOnError)
	tree := flags.String("tree", "", "folder of the simulated device tree")
	count := flags.Int("count", 8, "number of NPUs")
	resource := flags.String("resource", "huawei.com/Ascend910", "extended resource")
	sockets := flags.String("socket-dir", pluginapi.DevicePluginPath, "the kubelet's device-plugins folder")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *tree == "" || *count < 1 {
		fmt.Fprintln(os.Stderr, "npu-device-plugin: --tree and a positive --count are needed")
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	logger := klog.FromContext(ctx)
	// A name for each resource: two of these plug-ins may run beside each other.
	socket := filepath.Join(*sockets, "detinf-"+strings.ReplaceAll(*resource, "/", "-")+".sock")
	_ = os.Remove(socket)
	devices := inventory(*tree, *count)
	plugin := stub.NewDevicePluginStub(logger, devices, socket, *resource, false, false)
	plugin.SetAllocFunc(func(request *pluginapi.AllocateRequest, _ map[string]*pluginapi.Device) (*pluginapi.AllocateResponse, error) {
		return allocate(*tree, request)
	})
	if err := plugin.Start(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "npu-device-plugin:", err)
		return 1
	}
	kubelet := filepath.Join(*sockets, "kubelet.sock")
	if err := plugin.Register(ctx, kubelet, *resource, *sockets); err != nil {
		fmt.Fprintln(os.Stderr, "npu-device-plugin: register:", err)
		return 1
	}
	go plugin.Watch(ctx, kubelet, *resource, *sockets)
	ticker := time.NewTicker(2 * time.Second)
	defer ticker.Stop()
	last := healths(devices)
	for {
		select {
		case <-ctx.Done():
			_ = plugin.Stop(logger)
			return 0
		case <-ticker.C:
			devices = inventory(*tree, *count)
			if now := healths(devices); now != last {
				plugin.Update(devices)
				last = now
			}
		}
	}
}

func inventory(tree string, count int) []*pluginapi.Device {
	devices := make([]*pluginapi.Device, 0, count)
	for index := range count {
		health := pluginapi.Healthy
		text, err := os.ReadFile(filepath.Join(tree, "health", strconv.Itoa(index)))
		if err == nil && strings.TrimSpace(string(text)) != "OK" {
			health = pluginapi.Unhealthy
		}
		devices = append(devices, &pluginapi.Device{ID: fmt.Sprintf("Ascend910-%d", index), Health: health})
	}
	return devices
}

func healths(devices []*pluginapi.Device) string {
	words := make([]string, 0, len(devices))
	for _, device := range devices {
		words = append(words, device.Health)
	}
	return strings.Join(words, ",")
}

func allocate(tree string, request *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	response := &pluginapi.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		numbers := []int{}
		for _, id := range container.DevicesIds {
			number, err := strconv.Atoi(strings.TrimPrefix(id, "Ascend910-"))
			if err != nil {
				return nil, fmt.Errorf("device %q is none of ours", id)
			}
			numbers = append(numbers, number)
		}
		sort.Ints(numbers)
		answer := &pluginapi.ContainerAllocateResponse{Envs: map[string]string{}}
		words := []string{}
		for _, number := range numbers {
			words = append(words, strconv.Itoa(number))
			answer.Devices = append(answer.Devices, device(fmt.Sprintf("davinci%d", number)))
		}
		for _, manager := range managers {
			answer.Devices = append(answer.Devices, device(manager))
		}
		for _, path := range mounts {
			answer.Mounts = append(answer.Mounts, &pluginapi.Mount{
				ContainerPath: "/" + path, HostPath: filepath.Join(tree, path), ReadOnly: true,
			})
		}
		answer.Envs["ASCEND_VISIBLE_DEVICES"] = strings.Join(words, ",")
		response.ContainerResponses = append(response.ContainerResponses, answer)
	}
	return response, nil
}

// A stand-in is a character device that is there on every node: what is simulated is the tree, not the silicon.
func device(name string) *pluginapi.DeviceSpec {
	return &pluginapi.DeviceSpec{HostPath: "/dev/null", ContainerPath: "/dev/" + name, Permissions: "rw"}
}
